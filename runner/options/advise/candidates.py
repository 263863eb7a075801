"""The candidate settings, their memory and time, and which of them meet the limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob, resolve
from runner.config.root import RunnerConfig
from runner.estimates.amounts import amounts_of
from runner.estimates.fit import PROCESS_MIB, Fit, fit, free_mib_by_device
from runner.estimates.guesses import guessed_passes, without_guesses
from runner.estimates.jobs import estimate, guessed_speed, time_with_guesses, without_download
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speed import Estimate, EstimateBasis
from runner.options.advise.accuracies import RecordedAccuracy
from runner.options.advise.closeness import RecordedCloseness
from runner.options.advise.gains import RecordedGain
from runner.options.advise.machines import Machine
from runner_base import ConfigError, RunnerError, one_line
from runner_base.notes import Note, note
from runner_engine import local_model, no_downloads
from runner_engine.checkpoints import SHAPES_DIR, list_tensors, most_rows
from runner_engine.plan import formats
from runner_engine.quantization.base import CheckpointSource as Checkpoint
from runner_engine.render.notes import render

QUANTIZATIONS = ("none", "int8", "nf4")  # from the most faithful to the smallest
OTHER_MODELS = (
    3  # smaller models that are tried if few settings of the model itself fit: those nearest in size
)

Compose = Callable[[list[str]], RunnerConfig]


@dataclass
class UserLimits:
    """The limits that the user sets."""

    memory_mib: float | None = None
    seconds: float | None = None  # per question, averaged over a job


@dataclass
class Candidate:
    """Some settings with their memory and time."""

    overrides: list[str]
    config: RunnerConfig
    model: str  # the choice of the config group `model`, or the model's name
    is_asked: bool  # whether it is the user's model, not a smaller one
    allowed_mib: float = 0.0
    fit: Fit | None = None
    time: Estimate | None = None
    measured_mib: float | None = None  # the peak of a finished job
    accuracy: RecordedAccuracy | None = None
    closeness: RecordedCloseness | None = None
    reference_of: frozenset[str] = frozenset()  # the jobs whose KL is to this candidate
    gains: list[RecordedGain] = field(default_factory=list)  # of guessed tokens, where measured
    before_next: Note | None = None  # why it is ranked before the next one
    problem: Note | None = None  # why it is rejected
    notes: list[str] = field(default_factory=list)  # what is not as its name promises

    @property
    def rows(self) -> int:
        """The rows that decode at once."""
        return self.config.generation.batch_size or (self.fit.rows if self.fit else 1)

    @property
    def each_s(self) -> float | None:
        """Seconds per question, averaged over the whole job."""
        completions = sum(amount.completions for amount in amounts_of(self.config))
        return None if self.time is None or not completions else self.time.seconds / completions

    @property
    def memory_mib(self) -> float:
        """The peak memory of the process."""
        return self.fit.predicted.total_mib + PROCESS_MIB if self.fit else 0.0

    @property
    def known_mib(self) -> float:
        """The peak memory of the process: recorded or, without a record, predicted."""
        return self.memory_mib if self.measured_mib is None else self.measured_mib

    @property
    def measured_each_s(self) -> float | None:
        """Seconds per question by recorded jobs; None if there are none."""
        is_recorded = self.time is not None and self.time.source is EstimateBasis.recorded
        return self.each_s if is_recorded else None

    @property
    def each_s_at_most(self) -> float | None:
        """Seconds per question, with their possible error."""
        return None if self.each_s is None or self.time is None else self.each_s * (1 + self.time.spread)

    @property
    def each_s_at_least(self) -> float | None:
        """Seconds per question, less their possible error."""
        return None if self.each_s is None or self.time is None else self.each_s * (1 - self.time.spread)

    @property
    def is_timed(self) -> bool:
        """Whether its time was measured by a finished job and not predicted."""
        return self.measured_each_s is not None

    @property
    def name(self) -> str:
        """The choice of the group `model`, or the name of a file or folder."""
        return self.config.model.name if self.model == "auto" else self.model

    @property
    def quantization(self) -> str:
        return self.config.quantization.name


def candidate_settings(given: list[str], compose: Compose, is_asked: bool) -> Iterator[Candidate]:
    """Yield the settings to try; the user's overrides stay."""
    given_keys = {word.partition("=")[0] for word in given}
    base = compose(given)
    if not base.model.has_weights:
        raise ConfigError(
            "it has no weights here, so there is nothing to choose",
            key="model",
            value=base.model.name,
            code="unsupported",
        )
    model = next((word.partition("=")[2] for word in given if word.startswith("model=")), base.model.name)
    stored = base.quantization.source is not Checkpoint.plain
    for quantization in [base.quantization.name] if stored or "quantization" in given_keys else QUANTIZATIONS:
        overrides = given if "quantization" in given_keys else [*given, f"quantization={quantization}"]
        try:
            yield Candidate(overrides, compose(overrides), model, is_asked)
        except RunnerError:  # incompatible with another override
            continue


def judge(
    candidates: list[Candidate],
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None],
) -> list[Candidate]:
    """Set each candidate's batch size, memory and time, and the reason if it exceeds a limit."""
    known: dict[int, ResolvedJob] = {}
    with no_downloads(True):
        for number, candidate in enumerate(candidates):
            on_machine = candidate.config if machine is None else _on_device(candidate.config, machine.device)
            sized = without_download(resolve(on_machine))
            if sized is None:
                candidate.problem = note("size_unknown")
                continue
            try:
                formats.check_reach(sized.model)
            except ConfigError as error:
                candidate.problem = note("out_of_reach", error=one_line(error))
                continue
            candidate.notes = [render(note) for note in formats.notes_of_reach(sized.model)]
            known[number] = sized
            most_mib = limits.memory_mib
            if machine is not None:
                device, room = machine.device, machine.room_mib
            else:
                device = sized.model.files.model.device
                room = sum(free_mib_by_device(device).values()) + PROCESS_MIB
            allowed_mib = min(room, most_mib or room)
            candidate.allowed_mib = allowed_mib
            _set_batch_size(candidate, sized, {device: allowed_mib - PROCESS_MIB})
            if candidate.fit is None or not candidate.fit.fits:
                needed = candidate.fit.needed_mib + PROCESS_MIB if candidate.fit else 0.0
                candidate.problem = note("too_large", needed_mib=needed, allowed_mib=allowed_mib)
    fitting = {number: candidate for number, candidate in known.items() if not candidates[number].problem}
    if machine is None:
        finished = FinishedJobs(output_dir)
        for number, asked in fitting.items():
            for config in _as_recorded(candidates[number], asked):
                candidates[number].time = candidates[number].time or finished.estimate(config)
                candidates[number].measured_mib = candidates[number].measured_mib or finished.peak_mib(config)
        timed = {
            number: replace(resolved, config=candidates[number].config)
            for number, resolved in fitting.items()
            if candidates[number].time is None
        }
        for number, taken in estimate(timed, output_dir, calibrate, on_line).items():
            candidates[number].time = taken.time
    else:
        for number, resolved in fitting.items():
            candidates[number].time = _guess(candidates[number], resolved, machine)
    for candidate in candidates:
        each_s = candidate.each_s
        if (
            not candidate.problem
            and limits.seconds is not None
            and each_s is not None
            and each_s > limits.seconds
        ):
            candidate.problem = note("too_slow", each_s=each_s, limit_s=limits.seconds)
    return candidates


def _on_device(config: RunnerConfig, device: str) -> RunnerConfig:
    """Return the config with its model on a device of another machine: predictions depend on the
    device."""
    return replace(config, model=replace(local_model(config.model), device=device))


def _set_batch_size(candidate: Candidate, resolved: ResolvedJob, free_mib: dict[str, float]) -> None:
    """Set the largest batch size that fits, unless the user has set one."""
    sizes = [candidate.config.generation.batch_size]
    amounts = amounts_of(candidate.config)
    if sizes[0] is None and all(amount.rows is None for amount in amounts):
        number_bytes = candidate.config.generation.stored_kv.number_bytes(resolved.model.files.dtype_bytes)
        most = most_rows("cuda" if "cuda" in free_mib else "cpu", number_bytes)
        completions = max((amount.completions for amount in amounts), default=most)
        most = min(most, 1 << (completions - 1).bit_length())
        sizes = [size for size in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1) if size <= most]
    for size in sizes:
        changed = candidate.config
        if size is not None:
            changed = replace(
                candidate.config, generation=replace(candidate.config.generation, batch_size=size)
            )
        candidate.fit = fit(replace(resolved, config=changed), free_mib, fixes=False)
        if candidate.fit is not None and candidate.fit.predicted.total_mib <= sum(free_mib.values()):
            if size is not None and size != candidate.config.generation.batch_size:
                candidate.overrides = [*candidate.overrides, f"generation.batch_size={size}"]
            candidate.config = changed
            return


def _as_recorded(candidate: Candidate, asked: ResolvedJob) -> list[RunnerConfig]:
    """Return the configs whose jobs tell a candidate's figures: its own; that of as many rows as
    fit, if no more."""
    size = candidate.config.generation.batch_size
    if size is None or asked.config.generation.batch_size is not None:
        return [candidate.config]
    rows = fit(asked, free_mib_by_device(asked.model.files.model.device), fixes=False)
    completions = max((amount.completions for amount in amounts_of(asked.config)), default=size)
    is_alike = rows is not None and size >= min(rows.rows, completions)
    return [candidate.config, asked.config] if is_alike else [candidate.config]


def _guess(candidate: Candidate, resolved: ResolvedJob, machine: Machine) -> Estimate | None:
    assert candidate.fit is not None
    config, rates, job_fit = candidate.config, machine.rates, candidate.fit
    job = resolved.having(generation=config.generation)
    alone = without_guesses(job)
    if alone is not job:
        job_fit = fit(alone, job_fit.free_mib, fixes=False) or job_fit
    speed = guessed_speed(alone, job_fit, rates)
    passes = guessed_passes(config.generation, candidate.fit.predicted, speed, rates)
    return time_with_guesses(config, passes, speed, candidate.rows)


def smaller_models(than: Candidate) -> list[str]:
    """Return the largest presets that are smaller than a model."""
    sizes = {file.stem: _parameters(json.loads(file.read_text())) for file in SHAPES_DIR.glob("*.json")}
    own = sizes.get(than.model, 0)
    below = [name for name in sizes if sizes[name] < 0.8 * own]
    return sorted(below, key=lambda name: -sizes[name])[:OTHER_MODELS]


def _parameters(shape: dict[str, Any]) -> int:
    return sum(tensor.params for tensor in list_tensors(shape))
