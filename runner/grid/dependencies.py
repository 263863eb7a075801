"""Adds the jobs that other jobs of a grid need as `task.reference` or `task.early_stop_vs`.

A job that names another one by overrides describes it completely: its own overrides with these
on top. So the grid adds that job and runs it first, unless it is done already. A job named by
its id cannot be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runner.config.compose import Composer
from runner.config.hydra import split_job_config_and_choices
from runner.core.typed_command import format_grid_command
from runner.grid.plan import PlannedJob, PlanState, plan_composed_job
from runner.records.jobs import LOCK, Job
from runner_base import ConfigError
from runner_base.files import is_locked

KEEPS = "task.exact=false"  # then a likelihood job that names itself keeps what others are compared with


def add_dependency_jobs(plan: list[PlannedJob], composer: Composer) -> list[PlannedJob]:
    """Add the jobs that the grid's jobs depend on, in front of the grid's jobs.

    A job whose dependency cannot be planned gets an error.

    If a job of the grid equals a dependency except for what it stores, the dependency replaces it.
    """
    plan = list(plan)
    waiting: dict[str, list[int]] = {}
    for number, planned in enumerate(plan):
        if planned.after and planned.state in (PlanState.todo, PlanState.resume):
            waiting.setdefault(planned.after, []).append(number)
    there = {planned.job_id for planned in plan}
    made: list[PlannedJob] = []
    for job_id, numbers in waiting.items():
        first = plan[numbers[0]]
        if job_id in there or _sibling_job(first, job_id).read_finished_record() is not None:
            continue
        named = _plan_dependency(first, composer)
        if named is None and _sibling_job(first, job_id).folder.exists():
            continue  # another process may be doing it: the jobs wait for it
        if named is None or named.job_id != job_id:
            for number in numbers:
                plan[number].error = _create_dependency_error(first, job_id, named)
                plan[number].state, plan[number].exit_code = PlanState.impossible, ConfigError.exit_code
            continue
        rows = [
            number for number, planned in enumerate(plan) if _differs_only_in_stored_results(planned, named)
        ]
        if rows:
            plan[rows[0]] = replace(named, overrides=plan[rows[0]].overrides)
            continue
        named.made_for = len(numbers)
        made.append(named)
    return [*made, *plan]


def require_dependency_done(planned: PlannedJob) -> None:
    """Raise ConfigError if a single job depends on an unfinished job.

    The message names the command that runs both jobs.
    """
    if not planned.after or planned.state not in (PlanState.todo, PlanState.resume):
        return
    job = _sibling_job(planned, planned.after)
    if job.read_finished_record() is None and not is_locked(job.folder / LOCK):
        command = format_grid_command() if planned.after_overrides else None
        first = "Run both jobs in order with"
        fix = f"Run {job.job_id} first" if command is None else f"{first}: {command}"
        raise ConfigError(
            f"job {planned.job_id} needs job {job.job_id}, which is not complete in "
            f"{job.folder.parent}. {fix}",
            code="not_found",
        )


def merge_overrides(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Apply changes to a job's overrides. A change GROUP=CHOICE removes the job's earlier overrides of
    that group's keys.
    """
    keys = {line.partition("=")[0] for line in changes}
    kept = [line for line in overrides if not {(key := _override_key(line)), key.partition(".")[0]} & keys]
    return [*kept, *changes]


def _override_key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _plan_dependency(planned: PlannedJob, composer: Composer) -> PlannedJob | None:
    """Plan the job on which another job depends. Returns None if the dependency is given as a job
    id.
    """
    if not planned.after_overrides:
        return None
    overrides = merge_overrides(planned.overrides, planned.after_overrides)
    composed, lacking = composer.compose_config_without_missing_keys([*overrides, KEEPS])
    used = [line for line in overrides if line not in lacking]
    named = plan_composed_job(used, *split_job_config_and_choices(composed))
    if KEEPS not in lacking:
        named.filled_in.append(KEEPS)
    return named


def _differs_only_in_stored_results(planned: PlannedJob, dependency: PlannedJob) -> bool:
    if planned.config is None or dependency.config is None or planned.after:
        return False
    own = {key: getattr(dependency.config.task, key) for key in (*planned.decided, *dependency.decided)}
    return (
        bool(own) and replace(planned.config, task=replace(planned.config.task, **own)) == dependency.config
    )


def _sibling_job(planned: PlannedJob, job_id: str) -> Job:
    assert planned.job is not None
    return Job(job_id, planned.job.folder.with_name(job_id))


def _create_dependency_error(planned: PlannedJob, job_id: str, dependency: PlannedJob | None) -> ConfigError:
    folder = Path(planned.job.folder.parent) if planned.job is not None else Path()
    if dependency is None:
        return ConfigError(
            f"this job depends on job {job_id}, but {folder} has no such completed job", code="not_found"
        )
    if dependency.error is not None:
        return ConfigError(
            f"this job depends on another job that cannot run: {dependency.error}", code=dependency.error.code
        )
    return ConfigError(
        (
            f"this job depends on job {job_id}, but the overrides of this dependency now select "
            f"job {dependency.job_id}. Run {job_id} as a single job"
        ),
        code="mismatch",
    )
