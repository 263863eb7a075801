"""The estimates of each job of a plan: memory, whether it fits, and time, on the best available basis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.checkpoints.resolve import Resolved, ToDownload, no_downloads
from runner.config.model import has_weights, local_model
from runner.config.root import RunnerConfig
from runner.core.console import say
from runner.core.errors import RunnerError
from runner.core.texts import clock
from runner.estimates import calibration
from runner.estimates.amounts import amounts_of
from runner.estimates.fit import Fit, fit, free_mib_by_device
from runner.estimates.recorded import FinishedJobs
from runner.estimates.sample import CalibrationModel, calibration_model_of
from runner.estimates.speed import Estimate, EstimateBasis, Speed

SPREAD_OF_ANSWERS = 0.25  # additional uncertainty if prompts have a typical length


@dataclass
class JobEstimate:
    """The memory and time of one job."""

    fit: Fit | None = None
    time: Estimate | None = None


def without_download(config: RunnerConfig, resolved: Resolved) -> tuple[RunnerConfig, Resolved] | None:
    """Return a config that gives the model's size: its files or, if they are absent, its preset's shape; else None."""
    model = resolved.model
    if model.shape is not None and not Path(model.name).expanduser().exists():  # no need to ask the hub
        noise = replace(config, model=replace(model, random_weights=True), profile="none")
        return noise, Resolved(noise).beside(resolved.second[0] if resolved.second else None)
    try:
        _ = resolved.tensors
    except (ToDownload, RunnerError, OSError):  # errors in its files are reported elsewhere
        return None
    return config, resolved


def estimate(
    jobs: Mapping[int, tuple[RunnerConfig, Resolved]],
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None] = say,
    read: Mapping[int, int] | None = None,
    finished: FinishedJobs | None = None,
) -> dict[int, JobEstimate]:
    """Estimate jobs by their numbers: from recorded speeds, else from calibrated ones if `calibrate` is set.

    Only jobs with local weights that fit are calibrated. Nothing is downloaded. `read` is how many questions or prompts
    a job has, if they have been read.
    """
    records, read = finished or FinishedJobs(output_dir), read or {}
    estimates: dict[int, JobEstimate] = {}
    calibration_models: dict[int, CalibrationModel] = {}
    with no_downloads(True):
        for number, (config, resolved) in jobs.items():
            entry = estimates[number] = JobEstimate(time=records.estimate(config, read.get(number)))
            if not has_weights(config.model) or (known := without_download(config, resolved)) is None:
                continue
            entry.fit = _fit(*known)
            amounts = amounts_of(config, read.get(number))
            can_calibrate = bool(amounts) and local_model(config.model) is config.model
            if (
                can_calibrate
                and entry.time is None
                and entry.fit
                and entry.fit.fits
                and (model := _calibration_model(*known, entry.fit))
            ):
                calibration_models[number] = model  # a hybrid's time also depends on its teacher
    speeds = calibration.speeds([*calibration_models.values()], output_dir, on_line) if calibrate else {}
    for number, model in calibration_models.items():
        job_fit = estimates[number].fit
        if job_fit is not None and (speed := speeds.get(model.key)) is not None:
            estimates[number].time = time_of(jobs[number][0], speed, job_fit.rows, read.get(number))
    return estimates


def time_of(config: RunnerConfig, speed: Speed, rows: int, read: int | None = None) -> Estimate:
    """Return a job's time at a speed; answers that may end early count with their maximum length."""
    amounts = amounts_of(config, read)
    is_exact = all(amount.is_exact for amount in amounts)
    seconds = sum(speed.seconds(amount, amount.rows or rows) for amount in amounts)
    seconds += config.task.limit_measurements * speed.limits_s
    each_s = speed.load_s + speed.import_s
    spread = speed.spread + (0.0 if is_exact else SPREAD_OF_ANSWERS)
    return Estimate(seconds + config.task.loads * each_s, spread, speed.source, is_upper_bound=not is_exact)


def _fit(config: RunnerConfig, resolved: Resolved) -> Fit | None:
    try:
        return fit(config, resolved, free_mib_by_device(resolved.model.device, resolved.model.max_memory))
    except RunnerError:  # errors in its files are reported elsewhere
        return None


def _calibration_model(config: RunnerConfig, resolved: Resolved, job_fit: Fit) -> CalibrationModel | None:
    try:
        return calibration_model_of(config, resolved, job_fit.predicted.weight_mib)
    except (RunnerError, KeyError, TypeError, ValueError):
        return None


def estimate_words(estimate: Estimate | None) -> tuple[str, str]:
    """Return an estimate in words: the time with its uncertainty, and its basis."""
    if estimate is None:
        return "", ""
    at_most = "≤ " if estimate.is_upper_bound and estimate.source is not EstimateBasis.recorded else ""
    return f"{at_most}{clock(estimate.seconds)} ± {estimate.spread:.0%}", estimate.source.value
