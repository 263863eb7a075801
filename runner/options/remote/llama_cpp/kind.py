"""model=llama_cpp: a .gguf file on a llama.cpp server that the runner starts and stops."""

from __future__ import annotations

from pathlib import Path

from runner.config.resolved import ResolvedJob, base_key
from runner.config.root import RunnerConfig
from runner.engines.kinds import KindWithTokenizer, ResourceNeed
from runner.options.remote import api_kind as api
from runner.options.remote.llama_cpp.command import check_flags, hash_draft_file, max_positions
from runner.options.remote.llama_cpp.engine import LlamaCppEngine
from runner.options.remote.llama_cpp.keys import llama_cpp_config
from runner.options.remote.llama_cpp.program import find_program
from runner.options.remote.llama_cpp.render.notes import NOTES
from runner_base import (
    MIB,
    ConfigError,
    check_value,
    fixed_decimals_formatter,
    format_value_and_limit,
    machine,
)
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseModelCache, Capability, Engine, PositionLimits
from runner_engine.checkpoints import chat_templates, count_weight_file_bytes


class LlamaCpp(KindWithTokenizer):
    """Model kind whose answers depend on the file and on llama.cpp's version, device and flags."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return names and SHA-256 of the files, and the llama.cpp version. The flags are in the
        config.
        """
        model = llama_cpp_config(resolved.config.model)
        _require_gguf_file(resolved)
        hashes = resolved.model.files.hash_files(cache) | hash_draft_file(resolved, cache)
        hashes.pop("dtype", None)  # of our own engine
        if model.parallel == 1 and not model.caches_prompts:  # until 29 November 2026 it did
            hashes["prompt_cache"] = "off"
        return hashes | {"llama_cpp": find_program(model).label}

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key that identifies the settings of a started server."""
        return f"{base_key(config)} {config.model!r}"

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        further = {Capability.fixed_length, Capability.thinking_budget}
        return (api.CAPABILITIES | further) - {Capability.token_scores}

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError for a file or setting that llama.cpp cannot run. In a plan, also return a
        note on memory.
        """
        model = llama_cpp_config(resolved.config.model)
        _require_gguf_file(resolved)
        check_flags(model)
        samples, most = getattr(resolved.config.task, "samples", 1), model.parallel
        need = (
            f"llama.cpp samples all answers to a prompt at once. Use model.parallel={samples}, or "
            f"at most {most} samples"
        )
        check_value(samples <= most, "task.samples", samples, need, code="conflict")
        if resolved.config.task.uses_chat_template:
            chat_templates.check_has_chat_template(resolved.model.files)
        own, asked = resolved.model.position_limits.own, model.context
        beyond = asked is not None and own is not None and asked > own
        notes = [note("beyond_trained", "warning", context=asked, trained=own)] if beyond else []
        memory = _predict_memory(resolved)
        notes += [memory] if resolved.config.plan else []
        return [render_note(each, NOTES) for each in notes]

    def predict_need(self, resolved: ResolvedJob) -> ResourceNeed:
        """Return the server's memory, threads and GPUs. It uses every GPU that it finds."""
        model = llama_cpp_config(resolved.config.model)
        gpus = len(machine.visible_gpu_models()) if find_program(model).devices else 0
        needed = _weight_mib(resolved) + (_kv_mib(resolved) or 0.0)
        return ResourceNeed(needed, model.threads or machine.available_cores(), gpus)

    def positions(self, resolved: ResolvedJob) -> PositionLimits:
        """Return the context length of the file, and model.context or its default."""
        return PositionLimits(resolved.model.position_limits.own, max_positions(resolved))

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return an engine that starts the server at its first use."""
        return LlamaCppEngine(resolved, self.capabilities(resolved.config), bases, folder)


def _require_gguf_file(resolved: ResolvedJob) -> None:
    name = resolved.config.model.name
    need = (
        "llama.cpp reads .gguf files. Name one, or OWNER/MODEL:QUANT of a hub. For a folder "
        "of safetensors use model=auto or model=vllm"
    )
    check_value(resolved.model.files.path.is_file(), "model.name", name, need, code="unsupported")


def _weight_mib(resolved: ResolvedJob) -> float:
    return count_weight_file_bytes(resolved.model.files.path) / MIB


def _kv_mib(resolved: ResolvedJob) -> float | None:
    """Return the KV cache size of all sequences in MiB, or None if the file's header lacks the
    dimensions.
    """
    model, settings = llama_cpp_config(resolved.config.model), resolved.model.files.text_settings
    names = ("num_hidden_layers", "num_key_value_heads", "head_dim")
    numbers = [settings.get(name) for name in names]
    if not all(isinstance(number, int) for number in numbers):
        return None
    layers, heads, size = (int(number) for number in numbers if number is not None)
    bits = model.kv_keys.bits + model.kv_values.bits
    return layers * heads * size * bits / 8 * max_positions(resolved) * model.parallel / MIB


def _predict_memory(resolved: ResolvedJob) -> Note:
    """Return a note with llama.cpp's estimated memory. Raises ConfigError if the model cannot fit
    into main memory.
    """
    model = llama_cpp_config(resolved.config.model)
    weights, kv = _weight_mib(resolved), _kv_mib(resolved)
    program = find_program(model)
    memory = note(
        "memory", weights_mib=weights, kv_mib=kv, places=program.device_names if program.devices else ""
    )
    if program.devices:
        return memory
    needed, free = weights + (kv or 0.0), machine.available_memory_mib()
    if model.check_memory and needed > free:
        needs, there = format_value_and_limit(needed, free, fixed_decimals_formatter(0))
        raise ConfigError(
            (
                f"llama.cpp needs {needs} MiB, but only {there} MiB of main memory are available. "
                "Lower model.context or model.parallel, use model.kv_keys=q8_0, or try anyway "
                "with model.check_memory=false"
            ),
            key="model.name",
            value=model.name,
            code="too_large",
        )
    return memory


KIND = LlamaCpp()
