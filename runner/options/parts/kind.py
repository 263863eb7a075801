"""Implements model=parts: a split checkpoint that runs in several processes, started by the runner or by
torchrun.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from runner.config.profiles import list_missing_gpu_warnings
from runner.config.resolved import ResolvedJob, build_model_spec
from runner.config.root import RunnerConfig
from runner.engines.kinds import Encoded, ModelKind, ResourceNeed
from runner.options.parts.model_keys import TransportBackend, as_parts_config
from runner.options.parts.pipeline import CAPABILITIES
from runner.options.parts.pipeline.ranks import load_manifest, make_first_process_rank, read_torchrun_rank
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding.manifest import MODEL_FILES
from runner.options.parts.sharding.part_checks import require_intact_part
from runner_base import (
    BYTES,
    MIB,
    ConfigError,
    Dtype,
    announce,
    check_value,
    fixed_decimals_formatter,
    format_value_and_limit,
    machine,
)
from runner_base.dtypes import resolve_dtype
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import BaseModelCache, Capability, Engine, Footprint, Prompt, Request, Workload
from runner_engine.checkpoints import read_model_config
from runner_engine.kernels import building


class PartsKind(ModelKind):
    """Model kind of a split checkpoint. The manifest, which lists the digest of every part, identifies
    the model.
    """

    HAS_WEIGHTS = True

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        config = resolved.config
        fingerprint = {"model": load_manifest(config).sha256}
        if (
            as_parts_config(config.model).dtype is Dtype.auto
        ):  # it depends on the machine, and answers depend on it
            fingerprint["dtype"] = _resolve_dtype(config)
        return fingerprint

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError if the parts cannot run on this machine. Reads the manifest, file sizes and
        headers.
        """
        config = resolved.config
        model, manifest = as_parts_config(config.model), load_manifest(config)
        manifest.require_parts_runnable_as_stages("model.name")
        for part in make_first_process_rank(config, manifest).list_local_parts(manifest):
            require_intact_part(manifest, part, "quick")
        device = machine.resolve_device_class(model.device)
        need = "this transport sends tensors between GPUs, but the parts run on the CPU. Use auto or gloo"
        check_value(
            model.backend is not TransportBackend.nccl or device == "cuda",
            "model.backend",
            model.backend.value,
            need,
            code="unsupported",
        )
        needed_mib, free_mib = _estimate_local_weight_mib(config), machine.available_memory_mib()
        if model.check_memory and device == "cpu" and needed_mib > free_mib:
            needs, free = format_value_and_limit(needed_mib, free_mib, fixed_decimals_formatter(0))
            raise ConfigError(
                (
                    f"the parts on this machine need {needs} MiB, but only {free} MiB of main "
                    "memory are free. Run some parts on other machines with torchrun, or set "
                    "model.check_memory=false"
                ),
                key="model.name",
                value=model.name,
                code="too_large",
            )
        own = [render_note(each, NOTES) for each in _warn_if_slow_pipeline(config)]
        return [*list_missing_gpu_warnings(config.profile, device), *own]

    def predict_memory(
        self, resolved: ResolvedJob, workload: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Estimate the memory of the parts that run on this machine. Only their weights are counted."""
        return Footprint({"linear": round(_estimate_local_weight_mib(resolved.config) * MIB)}, 0, 0, 0, 0)

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Return the weight memory, CPU cores and GPUs that the job needs.

        Processes share all cores. Each has its own GPU if there are enough.
        """
        config = resolved.config
        model, processes = (
            as_parts_config(config.model),
            make_first_process_rank(config, load_manifest(config)).local_processes,
        )
        number = model.device.partition(":")[2]
        named = frozenset({int(number)} if number else {})
        is_on_gpus = machine.resolve_device_class(model.device) == "cuda"
        return ResourceNeed(
            _estimate_local_weight_mib(config),
            machine.count_available_cpu_cores(),
            is_on_gpus * (1 if number else processes),
            named,
        )

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        return CAPABILITIES

    def encode_prompts(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Apply the chat template to prompts and tokenize them. Loads only the tokenizer."""
        from runner.options.parts.sharding.load_part import load_tokenizer
        from runner_engine import RequestEncoder  # imports torch

        config, folder = resolved.config, load_manifest(resolved.config).folder
        rows = read_model_config(folder / MODEL_FILES).get("vocab_size", math.inf)
        encoder = RequestEncoder(
            build_model_spec(config), load_tokenizer(folder), config.model.name, math.inf, vocab_size=rows
        )
        return [encoder.encode_prompt(Request(0, prompt)) for prompt in prompts]

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        from runner.options.parts.pipeline.engine import PipelineEngine  # imports torch

        for each in _warn_if_slow_pipeline(resolved.config):
            announce(f"note: {render_note(each, NOTES)}")
        return PipelineEngine(resolved.config, folder)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Build the C kernels unless the model runs on a GPU. Returns the build time in seconds."""
        features = [building.FLOAT32] if _resolve_dtype(resolved.config) == "float32" else []
        is_here = machine.resolve_device_class(as_parts_config(resolved.config.model).device) == "cpu"
        return building.build_kernels_if_missing(features) if is_here else 0.0

    def run_as_torchrun_worker(self, config: RunnerConfig) -> int | None:
        """Run this process's pipeline stages if torchrun started the process.

        Returns None in the first process and without torchrun.
        """
        if (rank := read_torchrun_rank()) is None:
            return None
        # no C++ stack trace beside our message
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from runner.options.parts.pipeline.processes import run_torchrun_process  # imports torch

        return run_torchrun_process(config, rank)


def _resolve_dtype(config: RunnerConfig) -> str:
    model, settings = (
        as_parts_config(config.model),
        read_model_config(load_manifest(config).folder / MODEL_FILES),
    )
    return resolve_dtype(model.dtype, settings, machine.resolve_device_class(model.device))


def _warn_if_slow_pipeline(config: RunnerConfig) -> list[Note]:
    """Return a warning if the whole model fits into one machine's memory, where a single process would be
    faster.
    """
    manifest = load_manifest(config)
    rank, on_cpu = (
        make_first_process_rank(config, manifest),
        machine.resolve_device_class(as_parts_config(config.model).device) == "cpu",
    )
    if (
        not on_cpu
        or rank.processes == 1
        or not rank.is_single_machine
        or _estimate_local_weight_mib(config) > machine.available_memory_mib()
    ):
        return []
    return [
        note(
            "slower_than_whole",
            "warning",
            processes=rank.processes,
            cores=machine.count_available_cpu_cores(),
        )
    ]


def _estimate_local_weight_mib(config: RunnerConfig) -> float:
    manifest = load_manifest(config)
    numbers = sum(
        part.params for part in make_first_process_rank(config, manifest).list_local_parts(manifest)
    )
    return numbers * BYTES.get(_resolve_dtype(config), 2) / MIB


KIND = PartsKind()
