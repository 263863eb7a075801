"""Estimates memory and time of each planned job from recorded, measured or rough speeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.config.resolved import ResolvedJob, build_model_spec
from runner.config.root import RunnerConfig
from runner.estimates import calibration
from runner.estimates.amounts import estimate_requested_completions
from runner.estimates.calibration import CalibrationRequest, estimate_calibration_s
from runner.estimates.context_costs import NOTHING, LengthCosts, compute_context_length_costs
from runner.estimates.fit import (
    MemoryFit,
    get_free_mib_by_device,
    limit_batch_and_answer_length,
    predict_memory_fit,
)
from runner.estimates.recorded import FinishedJobs
from runner.estimates.rough_speed import MachineRates, measure_machine_rates
from runner.estimates.sample import CalibrationModel, build_model_for_speed_calibration
from runner.estimates.speculation_time import (
    SpeculativePasses,
    disable_speculation,
    estimate_speculative_forward_passes,
)
from runner.estimates.speed import Estimate, Speed
from runner.render.notes import format_note
from runner_base import RunnerError, machine, print_message
from runner_base.notes import note
from runner_engine import DownloadRequired, ModelFiles, ResolvedModel, forbid_downloads, to_local_model_config

SHARE = 0.1  # of the time that the jobs take: a calibration may take no more
NOTED_SHARE = 0.1  # of a job's time from which on merging its adapter is named
SPREAD_OF_ANSWERS = 0.25  # additional uncertainty if prompts have a typical length


@dataclass
class JobEstimate:
    """Estimated memory and time of one job."""

    fit: MemoryFit | None = None
    time: Estimate | None = None


def resolve_job_without_download(resolved: ResolvedJob) -> ResolvedJob | None:
    model = resolved.model.files.model
    if model.shape is not None and not Path(model.name).expanduser().exists():  # no need to ask the hub
        noise = replace(resolved.config, model=replace(model, random_weights=True), profile="none")
        spec = build_model_spec(noise)
        return ResolvedJob(
            noise, ResolvedModel(spec, ModelFiles(spec), resolved.model.second), resolved.second
        )
    try:
        _ = resolved.model.files.tensors
    except (DownloadRequired, RunnerError, OSError):  # errors in its files are reported elsewhere
        return None
    return resolved


def estimate_memory_and_time(
    jobs: Mapping[int, ResolvedJob],
    output_dir: Path,
    should_calibrate: bool,
    print_line: Callable[[str], None] = print_message,
    num_questions: Mapping[int, int] | None = None,
    finished_jobs: FinishedJobs | None = None,
    max_time_fraction: float = SHARE,
) -> dict[int, JobEstimate]:
    """Estimate memory and time of each job, by job number.

    Recorded speeds are preferred to calibrated speeds, and these to rough speeds.

    If `should_calibrate` is set, unknown speeds are calibrated. The calibration takes at most
    `max_time_fraction` of the jobs' total time. Only jobs with local weights that fit are
    calibrated. Nothing is downloaded.
    """
    contention = machine.Contention(is_job=False)
    records, num_questions = finished_jobs or FinishedJobs(output_dir), num_questions or {}
    estimates: dict[int, JobEstimate] = {}
    models: dict[int, CalibrationModel] = {}
    guesses: dict[int, Speed] = {}
    passes: dict[int, SpeculativePasses | None] = {}
    costs: dict[int, LengthCosts] = {}

    def estimate_job_time(job_number: int, resolved: ResolvedJob, speed: Speed) -> Estimate | None:
        config, job_fit = (
            limit_batch_and_answer_length(resolved, num_questions.get(job_number)).config,
            estimates[job_number].fit,
        )
        assert job_fit is not None
        return estimate_job_time_with_speculation(
            config, passes.get(job_number), speed, job_fit.rows, num_questions.get(job_number)
        )

    with forbid_downloads(True):
        for number, resolved in jobs.items():
            config = resolved.config
            entry = estimates[number] = JobEstimate()
            known = resolve_job_without_download(resolved) if config.model.has_weights else None
            entry.fit = _predict_fit_or_none(known, num_questions.get(number)) if known is not None else None
            costs[number] = _estimate_context_length_costs(known, entry.fit)
            entry.time = records.estimate_time_from_records(config, num_questions.get(number), costs[number])
            if known is None:
                continue
            can_time = (
                bool(estimate_requested_completions(config, num_questions.get(number)))
                and to_local_model_config(config.model) is config.model
            )
            if not can_time or entry.time is not None or entry.fit is None or not entry.fit.is_possible:
                continue  # a hybrid's time also depends on its teacher
            alone = disable_speculation(known)
            alone_fit = (
                entry.fit if alone is known else _predict_fit_or_none(alone, num_questions.get(number))
            )
            if alone_fit is None:
                continue
            rates = measure_machine_rates(config, known.model.files.device, known.model.files.dtype_bytes)
            if rates is not None:
                guesses[number] = speed = estimate_rough_speed(alone, alone_fit, rates)
                alike = records.same_base_records(config)
                passes[number] = estimate_speculative_forward_passes(
                    config.generation, entry.fit.predicted, speed, rates, alike
                )
                entry.time = estimate_job_time(number, known, speed)
            elif alone is not known:
                continue  # nothing tells what the guesses take
            if model := _calibration_model_or_none(alone, alone_fit):
                models[number] = model

    def apply_speeds(speeds: Mapping[str, Speed]) -> None:
        for number, model in models.items():
            job_fit = estimates[number].fit
            if job_fit is not None and (speed := speeds.get(model.key)) is not None:
                merge_s = guesses[number].merge_s if number in guesses else 0.0
                speed = add_attention_cost(replace(speed, merge_s=merge_s), costs[number])
                estimates[number].time = estimate_job_time(number, jobs[number], speed)

    apply_speeds(speeds := calibration.load_cached_speeds([*models.values()], output_dir))
    missing = {number: model for number, model in models.items() if model.key not in speeds}
    if should_calibrate and missing:
        work_s = sum(estimate.time.seconds for estimate in estimates.values() if estimate.time is not None)
        calibrations: dict[str, CalibrationRequest] = {}
        for number, model in missing.items():
            cost_s = estimate_calibration_s(model, guesses[number]) if number in guesses else 0.0
            pending = calibrations.setdefault(model.key, CalibrationRequest(model, cost_s))
            taken = estimates[number].time
            pending.work_s += taken.seconds if taken is not None else 0.0
        limit_s = (
            max_time_fraction * work_s if len(guesses.keys() & missing.keys()) == len(missing) else math.inf
        )
        apply_speeds(calibration.calibrate_models([*calibrations.values()], output_dir, limit_s, print_line))
    is_timed = any(entry.time is not None for entry in estimates.values())
    if is_timed and (beside := contention.describe_load_by_other_programs()):
        print_line(f"note: {format_note(note('busy', beside=beside))}")
    return estimates


def estimate_rough_speed(resolved: ResolvedJob, memory_fit: MemoryFit, machine_rates: MachineRates) -> Speed:
    """Estimate a model's speed from the memory bandwidth and matmul rate of a machine."""
    config, files = resolved.config, resolved.model.files
    parameters = float(sum(tensor.num_elements for tensor in files.tensors))
    token_bytes = files.compute_kv_bytes_per_token(config.generation.kv_cache_config)
    speed = machine_rates.estimate_speed(config.quantization, memory_fit.predicted, parameters, token_bytes)
    return add_attention_cost(speed, _estimate_context_length_costs(resolved, memory_fit))


def add_attention_cost(speed: Speed, costs: LengthCosts) -> Speed:
    """Return the speed with the additional cost of attention in long contexts."""
    return replace(speed, pair_s=costs.pair_share * speed.seconds_per_token)


def estimate_time_at_speed(
    config: RunnerConfig, speed: Speed, batch_size: int, num_questions: int | None = None
) -> Estimate:
    """Estimate a job's time from a model's speed, assuming that every answer has its maximum length."""
    amounts = estimate_requested_completions(config, num_questions)
    is_exact = all(amount.is_exact for amount in amounts)
    seconds = sum(speed.estimate_seconds(amount, amount.rows or batch_size) for amount in amounts)
    seconds += config.task.num_limit_measurements * speed.limits_s
    each_s = speed.load_s + speed.merge_s + speed.import_s
    spread = speed.spread + (0.0 if is_exact else SPREAD_OF_ANSWERS)
    seconds += config.task.num_loads * each_s
    merging_s = config.task.num_loads * speed.merge_s
    is_worth_saying = 0 < NOTED_SHARE * seconds <= merging_s
    notes = [note("merging", seconds=merging_s)] * is_worth_saying
    return Estimate(seconds, spread, speed.source, is_upper_bound=not is_exact, notes=notes)


def estimate_job_time_with_speculation(
    config: RunnerConfig,
    speculative_passes: SpeculativePasses | None,
    speed: Speed,
    batch_size: int,
    num_questions: int | None = None,
) -> Estimate | None:
    """Estimate a job's time with speculative decoding, given the speed without speculative decoding.

    Returns None if the speedup is unknown.
    """
    if speculative_passes is not None:
        return speculative_passes.estimate_speculative_job_time(
            speed, lambda guessed: estimate_time_at_speed(config, guessed, batch_size, num_questions)
        )
    is_guessed = config.generation.speculation.drafts_every_step
    return None if is_guessed else estimate_time_at_speed(config, speed, batch_size, num_questions)


def _predict_fit_or_none(resolved: ResolvedJob, num_questions: int | None) -> MemoryFit | None:
    try:
        free_mib = get_free_mib_by_device(
            resolved.model.files.model.device, resolved.model.files.model.max_memory
        )
        return predict_memory_fit(
            resolved, free_mib, should_find_fix=bool(free_mib), num_questions=num_questions
        )
    except (DownloadRequired, RunnerError):  # a draft that is not here; errors are reported elsewhere
        return None


def _estimate_context_length_costs(resolved: ResolvedJob | None, memory_fit: MemoryFit | None) -> LengthCosts:
    """Return a model's costs of context length. All are zero if the model's shape is unknown."""
    if resolved is None or memory_fit is None:
        return NOTHING
    try:
        return compute_context_length_costs(resolved, memory_fit.predicted)
    except (RunnerError, KeyError, TypeError, ValueError):
        return NOTHING


def _calibration_model_or_none(resolved: ResolvedJob, memory_fit: MemoryFit) -> CalibrationModel | None:
    try:
        return build_model_for_speed_calibration(resolved, memory_fit.predicted.weight_mib)
    except (RunnerError, KeyError, TypeError, ValueError):
        return None
