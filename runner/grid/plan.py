"""Plans the jobs of a grid before any model is loaded: state, problems, memory and time.

Jobs that are compared while they run share an error rate of 5 %, split before the start. A job
that decides while it runs cannot wait for the others, as Holm's adjustment does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.config.compose import Composer
from runner.config.hydra import split_job_config_and_choices, to_runner_config
from runner.config.resolved import ResolvedJob, resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import ResourceNeed, get_model_kind
from runner.estimates.jobs import JobEstimate, estimate_memory_and_time
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speed import Estimate, EstimateBasis
from runner.grid.outcomes import JobOutcome
from runner.records.jobs import Job
from runner.run import (
    check_job_before_model_loading,
    check_recorded_model,
    must_ignore_earlier_results,
    read_inputs_and_identify_job,
)
from runner.tasks.base import Uses, import_task_module, render_requested_prompts, update_job_with_task_inputs
from runner.tracking import stores
from runner.tracking.sink import record_job_death
from runner_base import INTERRUPTED, ConfigError, Record, RunnerError, Status
from runner_base.errors import convert_error
from runner_base.notes import Note, note
from runner_engine import DownloadRequired, forbid_downloads


class PlanState(StrEnum):
    """State of a planned job before the grid starts."""

    todo = "to do"
    resume = "to resume"  # an interrupted run has left samples or measurements
    done = "done"
    impossible = "impossible"


@dataclass
class PlannedJob:
    """A planned job of a grid: config, id, state, problem and estimates."""

    overrides: list[str]
    config: RunnerConfig | None = None
    composed: DictConfig | None = None  # the composed config, before it is converted
    resolved: ResolvedJob | None = None  # None: the config itself cannot work
    job: Job | None = None
    state: PlanState = PlanState.impossible
    error: ConfigError | None = None  # why the job cannot work
    # why the job may not work well, and what its task says of it
    notes: list[Note | str] = field(default_factory=list)
    exit_code: int = 0
    record: Record | None = None  # of a job that is done
    # done, but MLflow does not have it yet, or may lack its traces, or task.output wants a copy
    unlogged: bool = False
    base: str = ""  # jobs with the same base share one load; empty: nothing to load
    measures: bool = False  # other jobs at the same time would distort its measurements
    input_count: int | None = None  # questions or prompts, where these have been read
    questions_left: int | None = None  # neither the job nor its siblings have answered them; None: not known
    data_digest: str = ""  # of the questions, where these have been read
    after: str = ""  # the id of a job that must be done first
    # that make that job of this one; empty: it is named by id
    after_overrides: list[str] = field(default_factory=list)
    # keys of the task that were open, with their values now
    decided: dict[str, Any] = field(default_factory=dict)
    made_for: int = 0  # so many jobs are compared with it, and nobody has asked for it itself
    is_compared: bool = False  # with another job while it runs, at a share of the grid's 5 %
    # overrides by the grid, in which its jobs need not differ
    filled_in: list[str] = field(default_factory=list)
    # keys of the grid that tell none of its jobs from another
    unnamed: frozenset[str] = frozenset()
    cost: float = 1.0  # a rough size of the work, to start long jobs first
    same_as: int | None = None  # the number of an earlier job of the grid that is the same job

    @property
    def problem(self) -> str:
        return str(self.error or "")

    @property
    def job_id(self) -> str:
        """The job's id. Empty if the config is invalid."""
        return self.job.job_id if self.job else ""

    @property
    def duplicate_detection_key(self) -> tuple[object, ...]:
        """Key that is equal for duplicate jobs: job id, store and output file."""
        assert self.config is not None
        return self.job, stores.create_store_from_config(self.config), self.config.task.output_file

    @cached_property
    def resource_need(self) -> ResourceNeed:
        """The predicted memory, threads and GPUs of the job."""
        return ResourceNeed(0.0, 1) if self.resolved is None else predict_resources(self.resolved)

    def record_dead_job_process(self, status: Status, message: str) -> JobOutcome:
        assert self.config is not None
        assert self.job is not None
        record_job_death(self.config, self.job, import_task_module(self.config).VERSION, status, message)
        return JobOutcome(status, message=message, exit_code=INTERRUPTED if status is Status.KILLED else 1)


def plan_job(overrides: list[str], config: RunnerConfig) -> PlannedJob:
    """Compute a job's id and read its record. Invalid inputs give a job in state `impossible`."""
    planned = PlannedJob(overrides, config)
    planned.cost = float(config.task.expected_completions * config.generation.max_total_new_tokens)
    task = import_task_module(config)
    try:
        with forbid_downloads(bool(config.plan)):
            planned.resolved = resolved = resolve_job(config)
        config = resolved.config
        planned.measures = Uses.machine in task.USES
        planned.base = get_model_kind(config.model).base_key(config) if Uses.weights in task.USES else ""
        with forbid_downloads(bool(config.plan)):
            inputs, planned.job = read_inputs_and_identify_job(resolved)
            planned.input_count, planned.after, planned.is_compared = (
                inputs.count,
                inputs.after,
                inputs.is_compared,
            )
            planned.after_overrides = inputs.after_overrides
            planned.data_digest = inputs.data.get("digest", "")
            planned.resolved = resolved = update_job_with_task_inputs(resolved, inputs)
            planned.decided = inputs.decided
            config = planned.config = resolved.config
            anew = must_ignore_earlier_results(config, task)
            planned.record = None if anew else planned.job.read_finished_record()
            if planned.record is not None:
                check_recorded_model(resolved, planned.record)
            else:
                planned.notes = check_job_before_model_loading(resolved, inputs)
            planned.notes += _make_question_limit_notes(config, inputs.count)
            if config.plan and planned.record is None and not anew and hasattr(task, "questions_left"):
                planned.questions_left = task.questions_left(inputs, planned.job)
                planned.notes += [note("nothing_to_ask")] * (planned.questions_left == 0)
            if config.plan:
                preview = task.preview(inputs, resolved) if hasattr(task, "preview") else ""
                shown = filter(None, (preview, render_requested_prompts(task, inputs, resolved)))
                planned.notes += [lines.replace("\n", "\n    ") for lines in shown]
    except DownloadRequired as absent:  # a job's id depends on the content of files that are not here yet
        planned.state, planned.notes = PlanState.todo, [str(absent)]
        planned.is_compared = hasattr(task, "has_configured_baseline") and task.has_configured_baseline(
            config
        )
    except RunnerError as error:
        # nothing will be loaded
        planned.error, planned.exit_code, planned.base = (
            convert_error(error, ConfigError),
            error.exit_code,
            "",
        )
        planned.is_compared = would_be_compared(config)
    else:
        if planned.questions_left == 0:
            planned.base = ""  # nothing will be loaded
        if planned.record is not None:
            planned.state = PlanState.done
            planned.unlogged = config.task.output_file is not None or config.tracking.traces
        else:
            started = planned.job.has_partial_results and not anew
            planned.state = PlanState.resume if started else PlanState.todo
    return planned


def plan_jobs(
    job_overrides: Sequence[Sequence[str]], context: HydraContext, primary_config: DictConfig
) -> list[PlannedJob]:
    composer = Composer(context.config_loader, primary_config.hydra.job.config_name, primary_config)
    return [
        plan_composed_job(overrides, *split_job_config_and_choices(composer.compose(overrides)))
        for overrides in map(list, job_overrides)
    ]


def plan_composed_job(overrides: list[str], composed: DictConfig, choices: Mapping[str, str]) -> PlannedJob:
    """Plan a job of a grid from its composed config."""
    try:
        config = to_runner_config(composed, choices)
    except RunnerError as error:
        return PlannedJob(overrides, error=convert_error(error, ConfigError), exit_code=error.exit_code)
    if config.task.reads_stdin:
        file = "Give a file (task.prompts=FILE), or run" if hasattr(config.task, "prompts") else "Run"
        refusal = ConfigError(
            (
                f"task={config.task.name} reads stdin, which jobs of a grid cannot do. "
                f"{file} it as a single job, without -m"
            ),
            code="unsupported",
        )
        return PlannedJob(overrides, error=refusal, exit_code=ConfigError.exit_code)
    if config.task.is_endless:
        refusal = ConfigError(
            (
                f"task={config.task.name} runs until you stop it, so it cannot be part of a grid. "
                "Run it as a single job, without -m"
            ),
            code="unsupported",
        )
        return PlannedJob(overrides, error=refusal, exit_code=ConfigError.exit_code)
    planned = plan_job(overrides, config)
    planned.composed = composed
    for key, value in planned.decided.items():  # where the job runs, it might be decided otherwise
        OmegaConf.update(composed, f"task.{key}", value)
        planned.filled_in.append(f"task.{key}={str(value).lower()}")
    return planned


def divide_error_rate(plan: list[PlannedJob]) -> None:
    """Divide the error rate of 5 % equally among the comparisons of a grid, unless gate.each is true.

    Jobs that cannot run now count too: a lack of memory today must not change the share of the
    others.
    """
    compared = [planned for planned in plan if planned.is_compared]
    comparisons = len({planned.job_id or " ".join(planned.overrides) for planned in compared})
    for number, planned in enumerate(plan):
        config = planned.config
        if not planned.is_compared or config is None or planned.composed is None:
            continue
        task, key = config.task, config.task.comparisons_key
        if getattr(task, key) is not None:
            continue  # the user has said how many there are, in this grid and others
        share = 1 if config.gate.each else comparisons
        OmegaConf.update(planned.composed, f"task.{key}", share)
        keys: dict[str, Any] = {key: share}
        again = plan_job(planned.overrides, replace(config, task=replace(task, **keys)))
        plan[number] = replace(again, composed=planned.composed, filled_in=[f"task.{key}={share}"])


def _make_question_limit_notes(config: RunnerConfig, num_questions: int | None) -> list[Note]:
    """Return a note if the data set has fewer questions than task.limit."""
    task = config.task.questions_config
    if task is None or task.limit is None or num_questions is None or num_questions >= task.limit:
        return []
    return [note("fewer_questions", limit=task.limit, count=num_questions)]


def would_be_compared(config: RunnerConfig) -> bool:
    try:
        task = import_task_module(config)
        return hasattr(task, "has_configured_baseline") and task.has_configured_baseline(config)
    except RunnerError:  # the words for the other job are the mistake
        return False


def mark_duplicate_jobs(plan: list[PlannedJob]) -> None:
    """Mark jobs that appear twice in the plan, so that each job runs once."""
    first: dict[tuple[object, ...], int] = {}
    for number, planned in enumerate(plan):
        if planned.job is not None:
            earlier = first.setdefault(planned.duplicate_detection_key, number)
            planned.same_as = earlier if earlier != number else None


def predict_resources(resolved: ResolvedJob) -> ResourceNeed:
    """Predict the memory, threads and GPUs that a job needs, from the checkpoint's headers."""
    config = resolved.config
    return (
        get_model_kind(config.model).predict_resources(resolved)
        if Uses.weights in import_task_module(config).USES
        else ResourceNeed(0.0, 1)
    )


def estimate_planned_jobs(plan: list[PlannedJob]) -> dict[int, JobEstimate]:
    """Estimate the memory and time of each job that loads weights.

    Returns estimates by job number. plan=quick skips the calibration.
    """
    jobs = {
        number: planned.resolved
        for number, planned in enumerate(plan)
        if planned.resolved is not None and planned.same_as is None
        if Uses.weights in import_task_module(planned.resolved.config).USES
    }
    settings = next((job.config for job in jobs.values()), None)
    if settings is None:
        return {}
    output_dir = Path(settings.output_dir).expanduser().absolute()
    timed = {
        number: job
        for number, job in jobs.items()
        if plan[number].state in (PlanState.todo, PlanState.resume)
    }
    asked = {number: job for number, job in timed.items() if plan[number].questions_left != 0}
    others = {number: job for number, job in jobs.items() if number not in asked}
    counts = {
        number: planned.input_count for number, planned in enumerate(plan) if planned.input_count is not None
    }
    counts |= {number: left for number, planned in enumerate(plan) if (left := planned.questions_left)}
    finished = FinishedJobs(output_dir)
    estimates = estimate_memory_and_time(
        others, output_dir, should_calibrate=False, num_questions=counts, finished_jobs=finished
    )
    for number in timed.keys() - asked.keys():
        estimates[number].time = Estimate(0.0, 0.0, EstimateBasis.answered)
    return estimates | estimate_memory_and_time(
        asked, output_dir, settings.plan is True, num_questions=counts, finished_jobs=finished
    )
