"""Implements model=vllm: a model with local, hashed files on a vLLM server that the runner starts and
stops.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob, base_model_key
from runner.config.root import RunnerConfig
from runner.engines.kinds import KindWithTokenizer, ResourceNeed
from runner.options.remote import api_kind as api
from runner.options.remote.vllm.command import CPU_KV_GIB, KV_SPACE, resolve_job_dtype
from runner.options.remote.vllm.engine import VllmEngine
from runner.options.remote.vllm.environment import VllmEnvironment, find_vllm_environment
from runner.options.remote.vllm.gpus import is_batch_invariance_enabled, query_total_gpu_memory_mib
from runner.options.remote.vllm.keys import WORDS, VllmConfig, as_vllm_config
from runner.options.remote.vllm.render.notes import NOTES
from runner_base import (
    BYTES,
    MIB,
    ConfigError,
    check_value,
    fixed_decimals_formatter,
    format_value_and_limit,
    machine,
)
from runner_base.dtypes import find_stored_dtype
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseModelCache, Capability, Engine, PositionLimits
from runner_engine.checkpoints import adapter_shapes, chat_templates, count_weight_file_nbytes

GPU_SHARE = 0.9  # vLLM's own, or a little less


class Vllm(KindWithTokenizer):
    """Model kind of model=vllm. Its job id includes the model's files and vLLM's version and flags."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return the names and SHA-256 hashes of the model's files, and vLLM's version."""
        environment = find_vllm_environment(as_vllm_config(resolved.config.model))
        hashes = resolved.model.files.hash_files(cache)
        if "dtype" in hashes:
            hashes["dtype"] = resolve_job_dtype(resolved, environment)
        return hashes | {
            "vllm": environment.label + (", batch-invariant" if is_batch_invariance_enabled() else "")
        }

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key that identifies model, adapter and server settings. Jobs with equal keys share a
        running server.
        """
        return f"{base_model_key(config)} {config.model!r} {config.lora!r}"

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        model = as_vllm_config(config.model)
        further = {Capability.fixed_length} | (
            {Capability.thinking_budget} if model.reasoning_parser else set()
        )
        environment = find_vllm_environment(model)
        lacks = set() if environment.names_tokens else {Capability.token_scores}
        if config.lora.single_adapter is not None and environment.on_cpu:
            lacks |= {Capability.logprobs, Capability.token_scores}
        return (api.CAPABILITIES | further) - lacks

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError for files or settings that vLLM cannot run.

        For plan=true, returns a note on memory.
        """
        model, files = as_vllm_config(resolved.config.model), resolved.model.files
        environment = find_vllm_environment(model)
        need = "vLLM needs a folder of safetensors. For a .gguf file use model=local quantization=gguf"
        check_value(files.path.is_dir(), "model.name", model.name, need, code="unsupported")
        _check_quantization(resolved, environment)
        if resolved.config.task.uses_chat_template:
            chat_templates.check_has_chat_template(resolved.model.files)
        adapter_shapes.check_adapter_shapes(files)
        memory = _make_memory_note(resolved, environment)
        return [render_note(memory, NOTES)] if resolved.config.plan else []

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Estimate the memory, threads and GPUs that the server needs."""
        model = as_vllm_config(resolved.config.model)
        gpus = (
            0
            if find_vllm_environment(model).on_cpu
            else min(model.num_gpus, max(len(machine.visible_gpu_models()), 1))
        )
        return ResourceNeed(_estimate_weight_mib(resolved), machine.count_available_cpu_cores(), gpus)

    def positions(self, resolved: ResolvedJob) -> PositionLimits:
        """Return the context lengths from config.json and from the server setting model.max_positions."""
        own = resolved.model.position_limits.own
        return PositionLimits(own, as_vllm_config(resolved.config.model).max_positions or own or math.inf)

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return an engine that starts the vLLM server when it is first used."""
        return VllmEngine(resolved, self.capabilities(resolved.config), bases, folder)


def _check_quantization(resolved: ResolvedJob, environment: VllmEnvironment) -> None:
    """Raise ConfigError if the installed vLLM does not support the quantization, or if the checkpoint is
    already quantized.
    """
    model, files = as_vllm_config(resolved.config.model), resolved.model.files
    word = model.vllm_quantization(resolved.config.quantization)
    key, without = ("model.quantization", "null") if model.quantization else ("quantization", "none")
    is_stored = (
        f"the checkpoint {model.name} is already quantized as {files.stored_format}. Use {key}={without}"
    )
    check_value(word is None or files.stored_format is None, key, word, is_stored, code="conflict")
    need = (
        f"{environment.label} supports {', '.join(environment.quantizations)}. The choices of "
        f"the config group are {', '.join(WORDS)}"
    )
    check_value(
        word is None or not environment.quantizations or word in environment.quantizations,
        key,
        word,
        need,
        code="unknown_choice",
    )


def _estimate_weight_mib(resolved: ResolvedJob) -> float:
    """Return the size of the weights that vLLM loads in MiB. Reads only headers of the checkpoint."""
    model, files = as_vllm_config(resolved.config.model), resolved.model.files
    own = count_weight_file_nbytes(files.path)
    if files.stored_format is not None:
        return own / MIB
    scale = BYTES[resolve_job_dtype(resolved, find_vllm_environment(model))] / BYTES.get(
        find_stored_dtype(files.settings), 2
    )
    word = model.vllm_quantization(resolved.config.quantization)
    # fp8 or 8 bits; fewer bits take less
    return own * scale / MIB if word is None else own * scale / MIB / 2


def _make_memory_note(resolved: ResolvedJob, environment: VllmEnvironment) -> Note:
    """Return a note on the memory that vLLM will reserve. Raises ConfigError if the model does not fit."""
    model = as_vllm_config(resolved.config.model)
    weights, gpus = _estimate_weight_mib(resolved), [] if environment.on_cpu else query_total_gpu_memory_mib()
    if environment.on_cpu:
        share = None if model.memory_share is None else model.memory_share * machine.total_memory_mib()
        kv = (
            1024.0 * float(os.environ.get(KV_SPACE) or CPU_KV_GIB)
            if share is None
            else max(share - weights, 0.0)
        )
        _check_memory(
            model,
            weights if share is None else max(weights, share),
            machine.available_memory_mib(),
            "main memory",
        )
        return note("memory_of_cpu", weights_mib=weights, kv_mib=kv)
    if not gpus:
        return note("memory_of_unknown_gpus", weights_mib=weights)
    here, each = gpus[: model.num_gpus], weights / (model.tensor_parallel * model.pipeline_parallel)
    share = (model.memory_share or GPU_SHARE) * min(here)
    _check_memory(model, each, share, f"each GPU, model.memory_share={model.memory_share or GPU_SHARE:g}")
    return note(
        "memory_of_gpus",
        weights_mib=weights,
        each_mib=each,
        share_mib=share,
        gpus=model.num_gpus,
        here=len(here),
    )


def _check_memory(model: VllmConfig, needed_mib: float, available_mib: float, device: str) -> None:
    if model.check_memory and needed_mib > available_mib:
        needs, there = format_value_and_limit(needed_mib, available_mib, fixed_decimals_formatter(0))
        raise ConfigError(
            (
                f"vLLM needs {needs} MiB, but only {there} MiB of {device} are available. Use a "
                "larger model.tensor_parallel, quantization=fp8 or a smaller model (on a CPU "
                "also a smaller model.memory_share), or try anyway with model.check_memory=false"
            ),
            key="model.name",
            value=model.name,
            code="too_large",
        )


KIND = Vllm()
