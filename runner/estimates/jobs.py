"""The estimates of each job of a plan: memory, whether it fits, and time, on the best available
basis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.config.resolved import ResolvedJob, spec_of
from runner.config.root import RunnerConfig
from runner.estimates import calibration
from runner.estimates.amounts import amounts_of
from runner.estimates.calibration import Calibration, calibration_s
from runner.estimates.fit import Fit, fit, free_mib_by_device, possible
from runner.estimates.guess import Rates, rates_here
from runner.estimates.guesses import GuessedPasses, guessed_passes, without_guesses
from runner.estimates.lengths import NOTHING, LengthCosts, length_costs
from runner.estimates.recorded import FinishedJobs
from runner.estimates.sample import CalibrationModel, calibration_model_of
from runner.estimates.speed import Estimate, EstimateBasis, Speed
from runner.render.notes import note_text
from runner_base import RunnerError, clock, machine, say
from runner_base.notes import note
from runner_engine import ModelFiles, ResolvedModel, ToDownload, local_model, no_downloads

SHARE = 0.1  # of the time that the jobs take: a calibration may take no more
NOTED_SHARE = 0.1  # of a job's time from which on merging its adapter is named
SPREAD_OF_ANSWERS = 0.25  # additional uncertainty if prompts have a typical length


@dataclass
class JobEstimate:
    """The memory and time of one job."""

    fit: Fit | None = None
    time: Estimate | None = None


def without_download(resolved: ResolvedJob) -> ResolvedJob | None:
    """Return a job that gives the model's size: its files or, if they are absent, its preset's
    shape; else None."""
    model = resolved.model.files.model
    if model.shape is not None and not Path(model.name).expanduser().exists():  # no need to ask the hub
        noise = replace(resolved.config, model=replace(model, random_weights=True), profile="none")
        spec = spec_of(noise)
        return ResolvedJob(
            noise, ResolvedModel(spec, ModelFiles(spec), resolved.model.second), resolved.second
        )
    try:
        _ = resolved.model.files.tensors
    except (ToDownload, RunnerError, OSError):  # errors in its files are reported elsewhere
        return None
    return resolved


def estimate(
    jobs: Mapping[int, ResolvedJob],
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None] = say,
    read: Mapping[int, int] | None = None,
    finished: FinishedJobs | None = None,
    share: float = SHARE,
) -> dict[int, JobEstimate]:
    """Estimate jobs by their numbers: from recorded speeds, else from calibrated or guessed ones.

    If `calibrate` is set, speeds that are not known are calibrated, in at most this share of the
    time that all of the jobs take. Only jobs with local weights that fit are calibrated. Nothing is
    downloaded. `read` is how many questions or prompts a job has, if they have been read.
    """
    contention = machine.Contention(of_a_job=False)
    records, read = finished or FinishedJobs(output_dir), read or {}
    estimates: dict[int, JobEstimate] = {}
    models: dict[int, CalibrationModel] = {}
    guesses: dict[int, Speed] = {}
    passes: dict[int, GuessedPasses | None] = {}
    costs: dict[int, LengthCosts] = {}

    def timed(number: int, resolved: ResolvedJob, speed: Speed) -> Estimate | None:
        config, job_fit = possible(resolved, read.get(number)).config, estimates[number].fit
        assert job_fit is not None
        return time_with_guesses(config, passes.get(number), speed, job_fit.rows, read.get(number))

    with no_downloads(True):
        for number, resolved in jobs.items():
            config = resolved.config
            entry = estimates[number] = JobEstimate()
            known = without_download(resolved) if config.model.has_weights else None
            entry.fit = _fit(known, read.get(number)) if known is not None else None
            costs[number] = _length_costs(known, entry.fit)
            entry.time = records.estimate(config, read.get(number), costs[number])
            if known is None:
                continue
            can_time = (
                bool(amounts_of(config, read.get(number))) and local_model(config.model) is config.model
            )
            if not can_time or entry.time is not None or entry.fit is None or not entry.fit.fits:
                continue  # a hybrid's time also depends on its teacher
            alone = without_guesses(known)
            alone_fit = entry.fit if alone is known else _fit(alone, read.get(number))
            if alone_fit is None:
                continue
            rates = rates_here(config, known.model.files.device, known.model.files.dtype_bytes)
            if rates is not None:
                guesses[number] = speed = guessed_speed(alone, alone_fit, rates)
                alike = records.like(config)
                passes[number] = guessed_passes(config.generation, entry.fit.predicted, speed, rates, alike)
                entry.time = timed(number, known, speed)
            elif alone is not known:
                continue  # nothing tells what the guesses take
            if model := _calibration_model(alone, alone_fit):
                models[number] = model

    def use(speeds: Mapping[str, Speed]) -> None:
        for number, model in models.items():
            job_fit = estimates[number].fit
            if job_fit is not None and (speed := speeds.get(model.key)) is not None:
                merge_s = guesses[number].merge_s if number in guesses else 0.0
                speed = looking_back(replace(speed, merge_s=merge_s), costs[number])
                estimates[number].time = timed(number, jobs[number], speed)

    use(speeds := calibration.known_speeds([*models.values()], output_dir))
    missing = {number: model for number, model in models.items() if model.key not in speeds}
    if calibrate and missing:
        work_s = sum(estimate.time.seconds for estimate in estimates.values() if estimate.time is not None)
        calibrations: dict[str, Calibration] = {}
        for number, model in missing.items():
            cost_s = calibration_s(model, guesses[number]) if number in guesses else 0.0
            pending = calibrations.setdefault(model.key, Calibration(model, cost_s))
            taken = estimates[number].time
            pending.work_s += taken.seconds if taken is not None else 0.0
        limit_s = share * work_s if len(guesses.keys() & missing.keys()) == len(missing) else math.inf
        use(calibration.measure([*calibrations.values()], output_dir, limit_s, on_line))
    is_timed = any(entry.time is not None for entry in estimates.values())
    if is_timed and (beside := contention.beside()):
        on_line(f"note: {note_text(note('busy', beside=beside))}")
    return estimates


def guessed_speed(resolved: ResolvedJob, job_fit: Fit, rates: Rates) -> Speed:
    """Guess the speed of a job's model on a machine with these rates."""
    config, files = resolved.config, resolved.model.files
    parameters = float(sum(tensor.params for tensor in files.tensors))
    token_bytes = files.place_bytes(config.generation.stored_kv)
    speed = rates.speed(config.quantization, job_fit.predicted, parameters, token_bytes)
    return looking_back(speed, _length_costs(resolved, job_fit))


def looking_back(speed: Speed, costs: LengthCosts) -> Speed:
    """Return a speed that knows what the tokens before a token cost; measured passes have few of
    them."""
    return replace(speed, pair_s=costs.pair_share * speed.token_s)


def time_of(config: RunnerConfig, speed: Speed, rows: int, read: int | None = None) -> Estimate:
    """Return a job's time at a speed; answers that may end early count with their maximum
    length."""
    amounts = amounts_of(config, read)
    is_exact = all(amount.is_exact for amount in amounts)
    seconds = sum(speed.seconds(amount, amount.rows or rows) for amount in amounts)
    seconds += config.task.limit_measurements * speed.limits_s
    each_s = speed.load_s + speed.merge_s + speed.import_s
    spread = speed.spread + (0.0 if is_exact else SPREAD_OF_ANSWERS)
    seconds += config.task.loads * each_s
    merging_s = config.task.loads * speed.merge_s
    is_worth_saying = 0 < NOTED_SHARE * seconds <= merging_s
    notes = [note("merging", seconds=merging_s)] * is_worth_saying
    return Estimate(seconds, spread, speed.source, is_upper_bound=not is_exact, notes=notes)


def time_with_guesses(
    config: RunnerConfig, passes: GuessedPasses | None, speed: Speed, rows: int, read: int | None = None
) -> Estimate | None:
    """Return a job's time at a speed of its model alone; None if it guesses, and it is not known
    what that takes."""
    if passes is not None:
        return passes.time(speed, lambda guessed: time_of(config, guessed, rows, read))
    is_guessed = config.generation.speculation.is_steady
    return None if is_guessed else time_of(config, speed, rows, read)


def _fit(resolved: ResolvedJob, read: int | None) -> Fit | None:
    try:
        free_mib = free_mib_by_device(
            resolved.model.files.model.device, resolved.model.files.model.max_memory
        )
        return fit(resolved, free_mib, fixes=bool(free_mib), read=read)
    except (ToDownload, RunnerError):  # a draft that is not here; errors are reported elsewhere
        return None


def _length_costs(resolved: ResolvedJob | None, job_fit: Fit | None) -> LengthCosts:
    """Return what positions cost a model; nothing if its shape is not known."""
    if resolved is None or job_fit is None:
        return NOTHING
    try:
        return length_costs(resolved, job_fit.predicted)
    except (RunnerError, KeyError, TypeError, ValueError):
        return NOTHING


def _calibration_model(resolved: ResolvedJob, job_fit: Fit) -> CalibrationModel | None:
    try:
        return calibration_model_of(resolved, job_fit.predicted.weight_mib)
    except (RunnerError, KeyError, TypeError, ValueError):
        return None


def estimate_words(estimate: Estimate | None) -> tuple[str, str]:
    """Return an estimate in words: the time with its uncertainty, and its basis."""
    if estimate is None:
        return "", ""
    if estimate.source is EstimateBasis.answered:
        return clock(0), estimate.source.value
    if estimate.ends is not None:
        (least, most), error = estimate.ends, f"± {estimate.ends[1].spread:.0%}"
        if clock(least.seconds) != clock(most.seconds):
            return f"{clock(least.seconds)} – {clock(most.seconds)} {error}", estimate.source.value
    at_most = "≤ " if estimate.is_upper_bound and estimate.source is not EstimateBasis.recorded else ""
    return f"{at_most}{clock(estimate.seconds)} ± {estimate.spread:.0%}", estimate.source.value
