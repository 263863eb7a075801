"""model=vllm: a model whose files are known here, and that a server of vLLM runs, which the runner
starts and ends."""

from __future__ import annotations

import math
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob, base_key
from runner.config.root import RunnerConfig
from runner.engines.kinds import Need, WithTokenizer
from runner.options.remote import api_kind as api
from runner.options.remote.vllm.command import CPU_KV_GIB, KV_SPACE, dtype_of
from runner.options.remote.vllm.engine import VllmEngine
from runner.options.remote.vllm.environment import Environment, environment_of
from runner.options.remote.vllm.gpus import batch_invariant, memory_mib
from runner.options.remote.vllm.keys import WORDS, VllmConfig, vllm_model
from runner.options.remote.vllm.render.notes import NOTES
from runner_base import BYTES, MIB, ConfigError, check, decimals, machine, told_apart
from runner_base.dtypes import stored_dtype
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseCache, Capability, Engine, Positions
from runner_engine.checkpoints import adapter_header, chat_templates, file_bytes

GPU_SHARE = 0.9  # vLLM's own, or a little less


class Vllm(WithTokenizer):
    """Its files decide the answers, and so do vLLM's version and flags."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return names and SHA-256 of the files, and which vLLM reads them; the flags are in the
        config."""
        environment = environment_of(vllm_model(resolved.config.model))
        hashes = resolved.model.files.fingerprint(cache)
        if "dtype" in hashes:
            hashes["dtype"] = dtype_of(resolved, environment)
        return hashes | {"vllm": environment.label + (", batch-invariant" if batch_invariant() else "")}

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key of what the server is started with: an adapter is, too."""
        return f"{base_key(config)} {config.model!r} {config.lora!r}"

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its server can do."""
        model = vllm_model(config.model)
        further = {Capability.fixed_length} | (
            {Capability.thinking_budget} if model.reasoning_parser else set()
        )
        environment = environment_of(model)
        lacks = set() if environment.names_tokens else {Capability.token_scores}
        if config.lora.adapter is not None and environment.on_cpu:
            lacks |= {Capability.logprobs, Capability.token_scores}
        return (api.CAPABILITIES | further) - lacks

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse what vLLM cannot run here, by files and headers; in a plan, say how much memory it
        will take."""
        model, files = vllm_model(resolved.config.model), resolved.model.files
        environment = environment_of(model)
        need = "vLLM reads folders of safetensors: use model=local quantization=gguf"
        check(files.path.is_dir(), "model.name", model.name, need, code="unsupported")
        _check_words(resolved, environment)
        if resolved.config.task.asks_in_chat:
            chat_templates.check(resolved.model.files)
        adapter_header.check(files)
        memory = _predict_memory(resolved, environment)
        return [render_note(memory, NOTES)] if resolved.config.plan else []

    def need(self, resolved: ResolvedJob) -> Need:
        """Its server uses all cores, or as many GPUs as the keys say."""
        model = vllm_model(resolved.config.model)
        gpus = 0 if environment_of(model).on_cpu else min(model.gpus, max(len(machine.gpu_models()), 1))
        return Need(_weight_mib(resolved), machine.cores(), gpus)

    def positions(self, resolved: ResolvedJob) -> Positions:
        """Return model.max_positions, or those that config.json names: vLLM takes no longer
        text."""
        own = resolved.model.positions.own
        return Positions(own, vllm_model(resolved.config.model).max_positions or own or math.inf)

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine that starts the server at its first use."""
        return VllmEngine(resolved, self.capabilities(resolved.config), bases, folder)


def _check_words(resolved: ResolvedJob, environment: Environment) -> None:
    """Refuse a quantization that this vLLM does not know, or of a checkpoint that is quantized
    already."""
    model, files = vllm_model(resolved.config.model), resolved.model.files
    word = model.word_for(resolved.config.quantization)
    key, without = ("model.quantization", "null") if model.quantization else ("quantization", "none")
    is_stored = f"model.name={model.name} is quantized already ({files.stored}): use {key}={without}"
    check(word is None or files.stored is None, key, word, is_stored, code="conflict")
    need = (
        f"{environment.label} has {', '.join(environment.quantizations)}; "
        f"the choices of the group are {', '.join(WORDS)}"
    )
    check(
        word is None or not environment.quantizations or word in environment.quantizations,
        key,
        word,
        need,
        code="unknown_choice",
    )


def _weight_mib(resolved: ResolvedJob) -> float:
    """Return the size of the weights as vLLM holds them, from the checkpoint's headers."""
    model, files = vllm_model(resolved.config.model), resolved.model.files
    own = file_bytes(files.path)
    if files.stored is not None:
        return own / MIB
    scale = BYTES[dtype_of(resolved, environment_of(model))] / BYTES.get(stored_dtype(files.settings), 2)
    word = model.word_for(resolved.config.quantization)
    # fp8 or 8 bits; fewer bits take less
    return own * scale / MIB if word is None else own * scale / MIB / 2


def _predict_memory(resolved: ResolvedJob, environment: Environment) -> Note:
    """Return how much memory vLLM will take by its own rules; refuse what cannot fit."""
    model = vllm_model(resolved.config.model)
    weights, gpus = _weight_mib(resolved), [] if environment.on_cpu else memory_mib()
    if environment.on_cpu:
        share = None if model.memory_share is None else model.memory_share * machine.total_mib()
        kv = (
            1024.0 * float(os.environ.get(KV_SPACE) or CPU_KV_GIB)
            if share is None
            else max(share - weights, 0.0)
        )
        _refuse(
            model, weights if share is None else max(weights, share), machine.available_mib(), "main memory"
        )
        return note("memory_of_cpu", weights_mib=weights, kv_mib=kv)
    if not gpus:
        return note("memory_of_unknown_gpus", weights_mib=weights)
    here, each = gpus[: model.gpus], weights / (model.tensor_parallel * model.pipeline_parallel)
    share = (model.memory_share or GPU_SHARE) * min(here)
    _refuse(model, each, share, f"each GPU, model.memory_share={model.memory_share or GPU_SHARE:g}")
    return note(
        "memory_of_gpus", weights_mib=weights, each_mib=each, share_mib=share, gpus=model.gpus, here=len(here)
    )


def _refuse(model: VllmConfig, needed_mib: float, room_mib: float, device: str) -> None:
    if model.check_memory and needed_mib > room_mib:
        needs, there = told_apart(needed_mib, room_mib, decimals(0))
        raise ConfigError(
            f"vLLM needs {needs} MiB, and {there} MiB of "
            f"{device} are there: use a larger model.tensor_parallel, quantization=fp8 or a smaller "
            "model (on a CPU a smaller model.memory_share), or model.check_memory=false to try it anyway",
            key="model.name",
            value=model.name,
            code="too_large",
        )


KIND = Vllm()
