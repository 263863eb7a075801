"""Candidate model settings with their memory and time, and the limits that the user sets for both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob, resolve_job
from runner.config.root import RunnerConfig
from runner.estimates.amounts import estimate_requested_completions
from runner.estimates.fit import PROCESS_MIB, MemoryFit, get_free_mib_by_device, predict_memory_fit
from runner.estimates.jobs import (
    estimate_job_time_with_speculation,
    estimate_memory_and_time,
    estimate_rough_speed,
    resolve_job_without_download,
)
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speculation_time import disable_speculation, estimate_speculative_forward_passes
from runner.estimates.speed import Estimate, EstimateBasis
from runner.options.advise.accuracies import RecordedAccuracy
from runner.options.advise.machines import Machine
from runner.options.advise.recorded_kl import RecordedKl
from runner.options.advise.speculation_gains import RecordedSpeedup
from runner_base import ConfigError, RunnerError, to_one_line
from runner_base.notes import Note, note
from runner_engine import forbid_downloads, to_local_model_config
from runner_engine.checkpoints import SHAPES_DIR, compute_max_sequences, list_random_checkpoint_tensors
from runner_engine.plan import format_check
from runner_engine.quantization.base import CheckpointSource as Checkpoint
from runner_engine.render.notes import render_engine_note

QUANTIZATIONS = ("none", "int8", "nf4")  # from the most faithful to the smallest
OTHER_MODELS = (
    3  # smaller models that are tried if few settings of the model itself fit: those nearest in size
)

Compose = Callable[[list[str]], RunnerConfig]


@dataclass
class UserLimits:
    """The user's limits on memory and on seconds per question."""

    memory_mib: float | None = None
    seconds: float | None = None  # per question, averaged over a job


@dataclass
class Candidate:
    """A combination of model settings, with its estimated or recorded memory and time."""

    overrides: list[str]
    config: RunnerConfig
    model: str  # the choice of the config group `model`, or the model's name
    is_asked: bool  # whether it is the user's model, not a smaller one
    allowed_mib: float = 0.0
    fit: MemoryFit | None = None
    time: Estimate | None = None
    measured_mib: float | None = None  # the peak of a finished job
    accuracy: RecordedAccuracy | None = None
    closeness: RecordedKl | None = None
    reference_of: frozenset[str] = frozenset()  # the jobs whose KL is to this candidate
    gains: list[RecordedSpeedup] = field(default_factory=list)  # of guessed tokens, where measured
    before_next: Note | None = None  # why it is ranked before the next one
    problem: Note | None = None  # why it is rejected
    notes: list[str] = field(default_factory=list)  # what is not as its name promises

    def list_differing_overrides(self, other: Candidate) -> tuple[str, ...]:
        """Return the overrides that another candidate lacks, or all if there are none."""
        return tuple(word for word in self.overrides if word not in other.overrides) or tuple(self.overrides)

    @property
    def batch_size(self) -> int:
        """Number of sequences decoded at once."""
        return self.config.generation.batch_size or (self.fit.rows if self.fit else 1)

    @property
    def s_per_question(self) -> float | None:
        """Seconds per question, averaged over the whole job, or None if unknown."""
        completions = sum(amount.completions for amount in estimate_requested_completions(self.config))
        return None if self.time is None or not completions else self.time.seconds / completions

    @property
    def memory_mib(self) -> float:
        return self.fit.predicted.total_mib + PROCESS_MIB if self.fit else 0.0

    @property
    def best_known_mib(self) -> float:
        """Peak memory of the process in MiB: recorded if a record exists, otherwise estimated."""
        return self.memory_mib if self.measured_mib is None else self.measured_mib

    @property
    def recorded_s_per_question(self) -> float | None:
        """Seconds per question measured by earlier jobs, or None without such a job."""
        is_recorded = self.time is not None and self.time.source is EstimateBasis.recorded
        return self.s_per_question if is_recorded else None

    @property
    def max_s_per_question(self) -> float | None:
        """Upper bound of seconds per question, including the estimation error."""
        return (
            None
            if self.s_per_question is None or self.time is None
            else self.s_per_question * (1 + self.time.spread)
        )

    @property
    def min_s_per_question(self) -> float | None:
        """Lower bound of seconds per question, including the estimation error."""
        return (
            None
            if self.s_per_question is None or self.time is None
            else self.s_per_question * (1 - self.time.spread)
        )

    @property
    def has_recorded_time(self) -> bool:
        """Whether the time per question comes from a finished job instead of an estimate."""
        return self.recorded_s_per_question is not None

    @property
    def model_name(self) -> str:
        """Name of the model's preset (config group `model`), or the name of its file or folder."""
        return self.config.model.name if self.model == "auto" else self.model

    @property
    def quantization(self) -> str:
        return self.config.quantization.name


def iterate_quantization_candidates(
    user_overrides: list[str], compose: Compose, is_requested_model: bool
) -> Iterator[Candidate]:
    """Yield the candidate settings to evaluate. Every candidate includes the user's overrides."""
    given_keys = {word.partition("=")[0] for word in user_overrides}
    base = compose(user_overrides)
    if not base.model.has_weights:
        raise ConfigError(
            "this model has no weights on this machine, so its quantization cannot be chosen",
            key="model",
            value=base.model.name,
            code="unsupported",
        )
    model = next(
        (word.partition("=")[2] for word in user_overrides if word.startswith("model=")), base.model.name
    )
    stored = base.quantization.source is not Checkpoint.plain
    for quantization in [base.quantization.name] if stored or "quantization" in given_keys else QUANTIZATIONS:
        overrides = (
            user_overrides
            if "quantization" in given_keys
            else [*user_overrides, f"quantization={quantization}"]
        )
        try:
            yield Candidate(overrides, compose(overrides), model, is_requested_model)
        except RunnerError:  # incompatible with another override
            continue


def evaluate_candidates(
    candidates: list[Candidate],
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    print_line: Callable[[str], None],
) -> list[Candidate]:
    known: dict[int, ResolvedJob] = {}
    with forbid_downloads(True):
        for number, candidate in enumerate(candidates):
            on_machine = (
                candidate.config if machine is None else _replace_device(candidate.config, machine.device)
            )
            sized = resolve_job_without_download(resolve_job(on_machine))
            if sized is None:
                candidate.problem = note("size_unknown")
                continue
            try:
                format_check.check_planned_quantized_share(sized.model)
            except ConfigError as error:
                candidate.problem = note("out_of_reach", error=to_one_line(error))
                continue
            candidate.notes = [
                render_engine_note(note)
                for note in format_check.build_planned_quantization_notes(sized.model)
            ]
            known[number] = sized
            most_mib = limits.memory_mib
            if machine is not None:
                device, room = machine.device, machine.memory_mib
            else:
                device = sized.model.files.model.device
                room = sum(get_free_mib_by_device(device).values()) + PROCESS_MIB
            allowed_mib = min(room, most_mib or room)
            candidate.allowed_mib = allowed_mib
            _choose_batch_size(candidate, sized, {device: allowed_mib - PROCESS_MIB})
            if candidate.fit is None or not candidate.fit.is_possible:
                needed = candidate.fit.needed_mib + PROCESS_MIB if candidate.fit else 0.0
                candidate.problem = note("too_large", needed_mib=needed, allowed_mib=allowed_mib)
    fitting = {number: candidate for number, candidate in known.items() if not candidates[number].problem}
    if machine is None:
        finished = FinishedJobs(output_dir)
        for number, asked in fitting.items():
            for config in _find_configs_measured_like_candidate(candidates[number], asked):
                candidates[number].time = candidates[number].time or finished.estimate_time_from_records(
                    config
                )
                candidates[number].measured_mib = candidates[
                    number
                ].measured_mib or finished.find_max_recorded_peak_mib(config)
        timed = {
            number: replace(resolved, config=candidates[number].config)
            for number, resolved in fitting.items()
            if candidates[number].time is None
        }
        for number, taken in estimate_memory_and_time(timed, output_dir, calibrate, print_line).items():
            candidates[number].time = taken.time
    else:
        for number, resolved in fitting.items():
            candidates[number].time = _estimate_time(candidates[number], resolved, machine)
    for candidate in candidates:
        each_s = candidate.s_per_question
        if (
            not candidate.problem
            and limits.seconds is not None
            and each_s is not None
            and each_s > limits.seconds
        ):
            candidate.problem = note("too_slow", each_s=each_s, limit_s=limits.seconds)
    return candidates


def _replace_device(config: RunnerConfig, device: str) -> RunnerConfig:
    return replace(config, model=replace(to_local_model_config(config.model), device=device))


def _choose_batch_size(candidate: Candidate, resolved: ResolvedJob, free_mib: dict[str, float]) -> None:
    """Set the largest batch size that fits into memory, unless the user has set a batch size."""
    sizes = [candidate.config.generation.batch_size]
    amounts = estimate_requested_completions(candidate.config)
    if sizes[0] is None and all(amount.rows is None for amount in amounts):
        number_bytes = candidate.config.generation.kv_cache_config.get_bytes_per_number(
            resolved.model.files.dtype_bytes
        )
        most = compute_max_sequences("cuda" if "cuda" in free_mib else "cpu", number_bytes)
        completions = max((amount.completions for amount in amounts), default=most)
        most = min(most, 1 << (completions - 1).bit_length())
        sizes = [size for size in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1) if size <= most]
    for size in sizes:
        changed = candidate.config
        if size is not None:
            changed = replace(
                candidate.config, generation=replace(candidate.config.generation, batch_size=size)
            )
        candidate.fit = predict_memory_fit(replace(resolved, config=changed), free_mib, should_find_fix=False)
        if candidate.fit is not None and candidate.fit.predicted.total_mib <= sum(free_mib.values()):
            if size is not None and size != candidate.config.generation.batch_size:
                candidate.overrides = [*candidate.overrides, f"generation.batch_size={size}"]
            candidate.config = changed
            return


def _find_configs_measured_like_candidate(candidate: Candidate, job: ResolvedJob) -> list[RunnerConfig]:
    """Return the configs whose recorded measurements also apply to this candidate.

    They are the candidate's own config, and the config with automatic batch size if its batch is
    equal.
    """
    size = candidate.config.generation.batch_size
    if size is None or job.config.generation.batch_size is not None:
        return [candidate.config]
    rows = predict_memory_fit(
        job, get_free_mib_by_device(job.model.files.model.device), should_find_fix=False
    )
    completions = max(
        (amount.completions for amount in estimate_requested_completions(job.config)), default=size
    )
    is_alike = rows is not None and size >= min(rows.rows, completions)
    return [candidate.config, job.config] if is_alike else [candidate.config]


def _estimate_time(candidate: Candidate, resolved: ResolvedJob, machine: Machine) -> Estimate | None:
    assert candidate.fit is not None
    config, rates, job_fit = candidate.config, machine.achieved_bandwidth_and_matmul_rate, candidate.fit
    job = resolved.copy_with_changed_config_groups(generation=config.generation)
    alone = disable_speculation(job)
    if alone is not job:
        job_fit = predict_memory_fit(alone, job_fit.free_mib, should_find_fix=False) or job_fit
    speed = estimate_rough_speed(alone, job_fit, rates)
    passes = estimate_speculative_forward_passes(config.generation, candidate.fit.predicted, speed, rates)
    return estimate_job_time_with_speculation(config, passes, speed, candidate.batch_size)


def list_models_with_fewer_parameters(candidate: Candidate) -> list[str]:
    """Return up to three model presets that have fewer parameters than the candidate's model, largest
    first.
    """
    sizes = {file.stem: _count_parameters(json.loads(file.read_text())) for file in SHAPES_DIR.glob("*.json")}
    own = sizes.get(candidate.model, 0)
    below = [name for name in sizes if sizes[name] < 0.8 * own]
    return sorted(below, key=lambda name: -sizes[name])[:OTHER_MODELS]


def _count_parameters(model_dimensions: dict[str, Any]) -> int:
    return sum(tensor.num_elements for tensor in list_random_checkpoint_tensors(model_dimensions))
