"""model=llama_cpp: a .gguf file that a server of llama.cpp runs, which the runner starts and ends."""

from __future__ import annotations

from pathlib import Path

from runner.config.resolved import ResolvedJob, base_key
from runner.config.root import RunnerConfig
from runner.engines.kinds import Need, WithTokenizer
from runner.options.remote import api_kind as api
from runner.options.remote.llama_cpp.command import check_words, draft_sha256, positions_of
from runner.options.remote.llama_cpp.engine import LlamaCppEngine
from runner.options.remote.llama_cpp.keys import llama_cpp_model
from runner.options.remote.llama_cpp.program import program_of
from runner.options.remote.llama_cpp.render.notes import NOTES
from runner_base import MIB, ConfigError, check, decimals, machine, told_apart
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseCache, Capability, Engine, Positions
from runner_engine.checkpoints import chat_templates, file_bytes


class LlamaCpp(WithTokenizer):
    """Its file decides the answers, and so do llama.cpp's version, device and flags."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return names and SHA-256 of the files, and which llama.cpp reads them; the flags are in
        the config."""
        model = llama_cpp_model(resolved.config.model)
        _check_file(resolved)
        hashes = resolved.model.files.fingerprint(cache) | draft_sha256(resolved, cache)
        hashes.pop("dtype", None)  # of our own engine
        if model.parallel == 1 and not model.caches_prompts:  # until 29 November 2026 it did
            hashes["prompt_cache"] = "off"
        return hashes | {"llama_cpp": program_of(model).label}

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key of what the server is started with."""
        return f"{base_key(config)} {config.model!r}"

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its server can do."""
        further = {Capability.fixed_length, Capability.thinking_budget}
        return (api.CAPABILITIES | further) - {Capability.token_scores}

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse what llama.cpp cannot run here, by the file's header; in a plan, say how much
        memory it will take."""
        model = llama_cpp_model(resolved.config.model)
        _check_file(resolved)
        check_words(model)
        samples, most = getattr(resolved.config.task, "samples", 1), model.parallel
        need = f"llama.cpp draws all answers of a prompt at once: use model.parallel={samples}, or no more than {most}"
        check(samples <= most, "task.samples", samples, need, code="conflict")
        if resolved.config.task.asks_in_chat:
            chat_templates.check(resolved.model.files)
        own, asked = resolved.model.positions.own, model.context
        beyond = asked is not None and own is not None and asked > own
        notes = [note("beyond_trained", "warning", context=asked, trained=own)] if beyond else []
        memory = _predict_memory(resolved)
        notes += [memory] if resolved.config.plan else []
        return [render_note(each, NOTES) for each in notes]

    def need(self, resolved: ResolvedJob) -> Need:
        """Its server uses the threads that it is given, and each GPU that it finds."""
        model = llama_cpp_model(resolved.config.model)
        gpus = len(machine.gpu_models()) if program_of(model).devices else 0
        needed = _weight_mib(resolved) + (_kv_mib(resolved) or 0.0)
        return Need(needed, model.threads or machine.cores(), gpus)

    def positions(self, resolved: ResolvedJob) -> Positions:
        """Return those that the file names, and model.context, or what stands for it."""
        return Positions(resolved.model.positions.own, positions_of(resolved))

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine that starts the server at its first use."""
        return LlamaCppEngine(resolved, self.capabilities(resolved.config), bases, folder)


def _check_file(resolved: ResolvedJob) -> None:
    name = resolved.config.model.name
    need = (
        "llama.cpp reads .gguf files: name one, or OWNER/MODEL:QUANT of a hub; a folder of safetensors is for "
        "model=auto or model=vllm"
    )
    check(resolved.model.files.path.is_file(), "model.name", name, need, code="unsupported")


def _weight_mib(resolved: ResolvedJob) -> float:
    return file_bytes(resolved.model.files.path) / MIB


def _kv_mib(resolved: ResolvedJob) -> float | None:
    """Return the size of keys and values for all sequences; None where the header does not tell
    it."""
    model, settings = llama_cpp_model(resolved.config.model), resolved.model.files.text_settings
    names = ("num_hidden_layers", "num_key_value_heads", "head_dim")
    numbers = [settings.get(name) for name in names]
    if not all(isinstance(number, int) for number in numbers):
        return None
    layers, heads, size = (int(number) for number in numbers if number is not None)
    bits = model.kv_keys.bits + model.kv_values.bits
    return layers * heads * size * bits / 8 * positions_of(resolved) * model.parallel / MIB


def _predict_memory(resolved: ResolvedJob) -> Note:
    """Return how much memory llama.cpp will take; refuse what cannot fit into main memory."""
    model = llama_cpp_model(resolved.config.model)
    weights, kv = _weight_mib(resolved), _kv_mib(resolved)
    program = program_of(model)
    memory = note("memory", weights_mib=weights, kv_mib=kv, places=program.place if program.devices else "")
    if program.devices:
        return memory
    needed, free = weights + (kv or 0.0), machine.available_mib()
    if model.check_memory and needed > free:
        needs, there = told_apart(needed, free, decimals(0))
        raise ConfigError(
            f"llama.cpp needs {needs} MiB, and {there} MiB of main memory are "
            "there: use a smaller model.context or model.parallel, model.kv_keys=q8_0, a file of fewer bits, or "
            "model.check_memory=false to try it anyway",
            key="model.name",
            value=model.name,
            code="too_large",
        )
    return memory


KIND = LlamaCpp()
