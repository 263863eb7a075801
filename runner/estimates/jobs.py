"""What each job of a plan will take: memory and whether it fits, and time, by the best that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.checkpoints.resolve import Resolved, ToDownload, no_downloads
from runner.config.model import has_weights, local_model
from runner.config.root import RunnerConfig
from runner.core.console import say
from runner.core.errors import RunnerError
from runner.estimates import calibration
from runner.estimates.fit import Fit, fit, rooms
from runner.estimates.recorded import FinishedJobs
from runner.estimates.sample import CalibrationModel, asked_of
from runner.estimates.speed import Estimate, EstimateBasis, Speed

SPREAD_OF_ANSWERS = 0.25  # more, where the length of prompts is only typical


@dataclass
class Taken:
    """What one job will take."""

    fit: Fit | None = None
    time: Estimate | None = None


def without_download(config: RunnerConfig, resolved: Resolved) -> tuple[RunnerConfig, Resolved] | None:
    """Return what tells the model's sizes: its files, or its preset's shape where they are not here; None: nothing."""
    model = resolved.model
    if model.shape is not None and not Path(model.name).expanduser().exists():  # the hub need not be asked
        noise = replace(config, model=replace(model, random_weights=True), profile="none")
        return noise, Resolved(noise).beside(resolved.second[0] if resolved.second else None)
    try:
        _ = resolved.tensors
    except (ToDownload, RunnerError, OSError):  # what is wrong with its files is said elsewhere
        return None
    return config, resolved


def estimate(
    jobs: Mapping[int, tuple[RunnerConfig, Resolved]],
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None] = say,
    read: Mapping[int, int] | None = None,
) -> dict[int, Taken]:
    """Estimate jobs by their numbers: recorded speeds first, then calibrated ones where that is asked for.

    A calibration is for jobs with weights here that fit. Nothing is downloaded. `read` is how many questions or prompts
    a job has, where they have been read.
    """
    records, read = FinishedJobs(output_dir), read or {}
    taken: dict[int, Taken] = {}
    asked: dict[int, CalibrationModel] = {}
    with no_downloads(True):
        for number, (config, resolved) in jobs.items():
            it = taken[number] = Taken(time=records.estimate(config, read.get(number)))
            if not has_weights(config.model) or (known := without_download(config, resolved)) is None:
                continue
            it.fit = _fit(*known)
            amounts = config.task.amounts(config.generation, read.get(number))
            tells = bool(amounts) and local_model(config.model) is config.model
            if tells and it.time is None and it.fit and it.fit.fits and (one := _asked(*known, it.fit)):
                asked[number] = one  # a hybrid's time is its teacher's, too
    speeds = calibration.speeds([*asked.values()], output_dir, on_line) if calibrate else {}
    for number, one in asked.items():
        found = taken[number].fit
        if found is not None and (speed := speeds.get(one.key)) is not None:
            taken[number].time = time_of(jobs[number][0], speed, found.rows, read.get(number))
    return taken


def time_of(config: RunnerConfig, speed: Speed, rows: int, read: int | None = None) -> Estimate:
    """Return how long a job takes at a speed; answers that may end early count as long as they may become."""
    amounts = config.task.amounts(config.generation, read)
    is_exact = all(amount.is_exact for amount in amounts)
    seconds = sum(speed.seconds(amount, amount.rows or rows) for amount in amounts)
    seconds += config.task.limit_measurements * speed.limits_s
    each_s = speed.load_s + speed.import_s
    spread = speed.spread + (0.0 if is_exact else SPREAD_OF_ANSWERS)
    return Estimate(seconds + config.task.loads * each_s, spread, speed.source, most=not is_exact)


def _fit(config: RunnerConfig, resolved: Resolved) -> Fit | None:
    try:
        return fit(config, resolved, rooms(resolved.model.device, resolved.model.max_memory))
    except RunnerError:  # what is wrong with its files is said elsewhere
        return None


def _asked(config: RunnerConfig, resolved: Resolved, found: Fit) -> CalibrationModel | None:
    try:
        return asked_of(config, resolved, found.predicted.weight_mib)
    except (RunnerError, KeyError, TypeError, ValueError):
        return None


def said(estimate: Estimate | None) -> tuple[str, str]:
    """Write an estimate: a time with how far it may lie off, and what it rests on."""
    if estimate is None:
        return "", ""
    at_most = "≤ " if estimate.most and estimate.source is not EstimateBasis.recorded else ""
    return f"{at_most}{clock(estimate.seconds)} ± {estimate.spread:.0%}", estimate.source.value


def clock(seconds: float) -> str:
    """Write seconds as people read them: 0.4 s, 7 s, 3:20, 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
