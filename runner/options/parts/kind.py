"""model=parts: the parts of a split checkpoint, over several processes here or wherever torchrun
starts them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from runner.config.profiles import notes as profile_notes
from runner.config.resolved import ResolvedJob, spec_of
from runner.config.root import RunnerConfig
from runner.engines.kinds import Encoded, ModelKind, Need
from runner.options.parts.model_keys import Backend, parts_model
from runner.options.parts.pipeline import CAPABILITIES
from runner.options.parts.pipeline.ranks import first_rank, manifest_of, torchrun_rank
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding.check import require_sound
from runner.options.parts.sharding.manifest import MODEL_FILES
from runner_base import BYTES, MIB, ConfigError, Dtype, check, decimals, machine, tell, told_apart
from runner_base.dtypes import dtype_for
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseCache, Capability, Engine, Footprint, Prompt, Request, Workload
from runner_engine.checkpoints import read_settings
from runner_engine.kernels import building


class PartsKind(ModelKind):
    """The manifest contains everything, with the digest of every part."""

    HAS_WEIGHTS = True

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return the manifest's SHA-256."""
        config = resolved.config
        fingerprint = {"model": manifest_of(config).sha256}
        if (
            parts_model(config.model).dtype is Dtype.auto
        ):  # it depends on the machine, and answers depend on it
            fingerprint["dtype"] = _dtype(config)
        return fingerprint

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse parts that cannot run, are not all here or do not fit, by manifest, sizes and
        headers."""
        config = resolved.config
        model, manifest = parts_model(config.model), manifest_of(config)
        manifest.require_runnable("model.name")
        for part in first_rank(config, manifest).parts_here(manifest):
            require_sound(manifest, part, "quick")
        device = machine.device_class(model.device)
        need = "it sends tensors from GPU to GPU, but the parts run on the CPU: use auto or gloo"
        check(
            model.backend is not Backend.nccl or device == "cuda",
            "model.backend",
            model.backend.value,
            need,
            code="unsupported",
        )
        needed_mib, free_mib = _weight_mib(config), machine.available_mib()
        if model.check_memory and device == "cpu" and needed_mib > free_mib:
            needs, free = told_apart(needed_mib, free_mib, decimals(0))
            raise ConfigError(
                f"the parts that run here need {needs} MiB, and {free} MiB "
                "of main memory are free: let torchrun run some of them on other machines, or use "
                "model.check_memory=false to try it anyway",
                key="model.name",
                value=model.name,
                code="too_large",
            )
        own = [render_note(each, NOTES) for each in _slower_than_whole(config)]
        return [*profile_notes(config.profile, device), *own]

    def predict(
        self, resolved: ResolvedJob, work: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Predict only the weights of the parts that run here."""
        return Footprint({"linear": round(_weight_mib(resolved.config) * MIB)}, 0, 0, 0, 0)

    def need(self, resolved: ResolvedJob) -> Need:
        """Predict the weights; the processes share all cores, and each has a GPU if there are
        enough."""
        config = resolved.config
        model, processes = (
            parts_model(config.model),
            first_rank(config, manifest_of(config)).local_processes,
        )
        number = model.device.partition(":")[2]
        named = frozenset({int(number)} if number else {})
        is_on_gpus = machine.device_class(model.device) == "cuda"
        return Need(_weight_mib(config), machine.cores(), is_on_gpus * (1 if number else processes), named)

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what the pipeline engine can do."""
        return CAPABILITIES

    def encoded(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Render and tokenize prompts, with the tokenizer alone."""
        from runner.options.parts.sharding.load_part import load_tokenizer
        from runner_engine import RequestEncoder  # imports torch

        config, folder = resolved.config, manifest_of(resolved.config).folder
        rows = read_settings(folder / MODEL_FILES).get("vocab_size", math.inf)
        encoder = RequestEncoder(
            spec_of(config), load_tokenizer(folder), config.model.name, math.inf, vocab_size=rows
        )
        return [encoder.encode(Request(0, prompt)) for prompt in prompts]

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        from runner.options.parts.pipeline.engine import PipelineEngine  # imports torch

        for each in _slower_than_whole(resolved.config):
            tell(f"note: {render_note(each, NOTES)}")
        return PipelineEngine(resolved.config, folder)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Build the kernels, unless the model is on a GPU."""
        features = [building.FLOAT32] if _dtype(resolved.config) == "float32" else []
        is_here = machine.device_class(parts_model(resolved.config.model).device) == "cpu"
        return building.prepare(features) if is_here else 0.0

    def run_as_torchrun_worker(self, config: RunnerConfig) -> int | None:
        """Run this process's parts if torchrun has started it, unless it is the first one, which
        runs the job."""
        if (rank := torchrun_rank()) is None:
            return None
        # no C++ stack trace beside our message
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from runner.options.parts.pipeline.processes import join_torchrun  # imports torch

        return join_torchrun(config, rank)


def _dtype(config: RunnerConfig) -> str:
    """Return the dtype that model.dtype means on this machine."""
    model, settings = (parts_model(config.model), read_settings(manifest_of(config).folder / MODEL_FILES))
    return dtype_for(model.dtype, settings, machine.device_class(model.device))


def _slower_than_whole(config: RunnerConfig) -> list[Note]:
    """Return a note if several processes share one machine's processor, whose memory has room for
    the whole model."""
    manifest = manifest_of(config)
    rank, on_cpu = (
        first_rank(config, manifest),
        machine.device_class(parts_model(config.model).device) == "cpu",
    )
    if (
        not on_cpu
        or rank.processes == 1
        or not rank.is_one_machine
        or _weight_mib(config) > machine.available_mib()
    ):
        return []
    return [note("slower_than_whole", "warning", processes=rank.processes, cores=machine.cores())]


def _weight_mib(config: RunnerConfig) -> float:
    """Return the size of the parts that this machine's processes load."""
    manifest = manifest_of(config)
    numbers = sum(part.params for part in first_rank(config, manifest).parts_here(manifest))
    return numbers * BYTES.get(_dtype(config), 2) / MIB


KIND = PartsKind()
