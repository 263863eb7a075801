"""Implements model=llama_cpp: a .gguf file on a llama.cpp server that the runner starts and stops."""

from __future__ import annotations

from pathlib import Path

from runner.config.resolved import ResolvedJob, base_model_key
from runner.config.root import RunnerConfig
from runner.engines.kinds import KindWithTokenizer, ResourceNeed
from runner.options.remote import api_kind as api
from runner.options.remote.llama_cpp.command import (
    check_flags_supported,
    get_max_sequence_tokens,
    hash_draft_model_file,
)
from runner.options.remote.llama_cpp.engine import LlamaCppEngine
from runner.options.remote.llama_cpp.keys import as_llama_cpp_config
from runner.options.remote.llama_cpp.program import find_llama_cpp_program
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
from runner_engine.checkpoints import chat_templates, count_weight_file_nbytes


class LlamaCpp(KindWithTokenizer):
    """Model kind of a .gguf file that llama.cpp runs. The job id includes llama.cpp's version, device and
    flags.
    """

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        model = as_llama_cpp_config(resolved.config.model)
        _require_gguf_file(resolved)
        hashes = resolved.model.files.hash_files(cache) | hash_draft_model_file(resolved, cache)
        hashes.pop("dtype", None)  # of our own engine
        if model.parallel == 1 and not model.caches_prompts:  # until 29 November 2026 it did
            hashes["prompt_cache"] = "off"
        return hashes | {"llama_cpp": find_llama_cpp_program(model).label}

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key that identifies model and server settings. Jobs with equal keys share a running
        server.
        """
        return f"{base_model_key(config)} {config.model!r}"

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        further = {Capability.fixed_length, Capability.thinking_budget}
        return (api.CAPABILITIES | further) - {Capability.token_scores}

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError for a file or setting that llama.cpp cannot run.

        For plan=true, returns a note on memory.
        """
        model = as_llama_cpp_config(resolved.config.model)
        _require_gguf_file(resolved)
        check_flags_supported(model)
        samples, most = getattr(resolved.config.task, "samples", 1), model.parallel
        need = (
            f"llama.cpp samples all answers to a prompt in parallel. Use model.parallel={samples}, or "
            f"task.samples={most}"
        )
        check_value(samples <= most, "task.samples", samples, need, code="conflict")
        if resolved.config.task.uses_chat_template:
            chat_templates.check_has_chat_template(resolved.model.files)
        own, asked = resolved.model.position_limits.own, model.context
        beyond = asked is not None and own is not None and asked > own
        notes = [note("beyond_trained", "warning", context=asked, trained=own)] if beyond else []
        memory = _make_memory_note(resolved)
        notes += [memory] if resolved.config.plan else []
        return [render_note(each, NOTES) for each in notes]

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Estimate the memory, threads and GPUs that the server needs. llama.cpp uses every GPU."""
        model = as_llama_cpp_config(resolved.config.model)
        gpus = len(machine.visible_gpu_models()) if find_llama_cpp_program(model).devices else 0
        needed = _weight_mib(resolved) + (_estimate_kv_cache_mib(resolved) or 0.0)
        return ResourceNeed(needed, model.threads or machine.count_available_cpu_cores(), gpus)

    def positions(self, resolved: ResolvedJob) -> PositionLimits:
        """Return the context length of the model file and that of the server."""
        return PositionLimits(resolved.model.position_limits.own, get_max_sequence_tokens(resolved))

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        return LlamaCppEngine(resolved, self.capabilities(resolved.config), bases, folder)


def _require_gguf_file(resolved: ResolvedJob) -> None:
    name = resolved.config.model.name
    need = (
        "llama.cpp reads only .gguf files. Give a .gguf file, or OWNER/MODEL:QUANT of a hub. "
        "For a folder of safetensors use model=auto or model=vllm"
    )
    check_value(resolved.model.files.path.is_file(), "model.name", name, need, code="unsupported")


def _weight_mib(resolved: ResolvedJob) -> float:
    return count_weight_file_nbytes(resolved.model.files.path) / MIB


def _estimate_kv_cache_mib(resolved: ResolvedJob) -> float | None:
    """Return the size of the KV cache for all sequences in MiB, or None if the file lacks the model's
    dimensions.
    """
    model, settings = as_llama_cpp_config(resolved.config.model), resolved.model.files.text_settings
    names = ("num_hidden_layers", "num_key_value_heads", "head_dim")
    numbers = [settings.get(name) for name in names]
    if not all(isinstance(number, int) for number in numbers):
        return None
    layers, heads, size = (int(number) for number in numbers if number is not None)
    bits = model.kv_keys.bits + model.kv_values.bits
    return layers * heads * size * bits / 8 * get_max_sequence_tokens(resolved) * model.parallel / MIB


def _make_memory_note(resolved: ResolvedJob) -> Note:
    """Return a note with the memory that llama.cpp needs. Raises ConfigError if main memory is too small."""
    model = as_llama_cpp_config(resolved.config.model)
    weights, kv = _weight_mib(resolved), _estimate_kv_cache_mib(resolved)
    program = find_llama_cpp_program(model)
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
                "Lower model.context or model.parallel, or use model.kv_keys=q8_0. "
                "To skip this check, use model.check_memory=false"
            ),
            key="model.name",
            value=model.name,
            code="too_large",
        )
    return memory


KIND = LlamaCpp()
