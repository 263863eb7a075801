"""The jobs that others of a grid name and that the grid lacks: `task.reference`,
`task.early_stop_vs`.

A job that names another one by overrides is the recipe for it: the same overrides with these on
top. So the grid makes it, before all others, unless it is done already. One that is named by its id
cannot be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runner.config.compose import Composer
from runner.config.hydra import without_hydra
from runner.core.typed import as_grid
from runner.grid.plan import PlannedJob, State, plan_composed
from runner.records.jobs import LOCK, Job
from runner_base import ConfigError
from runner_base.files import is_held

KEEPS = "task.exact=false"  # then a likelihood job that names itself keeps what others are compared with


def with_named(plan: list[PlannedJob], composer: Composer) -> list[PlannedJob]:
    """Return the plan with the jobs that it lacks, first; a job that nobody can make is the problem
    of those naming it.

    A row of the grid may be the named job but for what it keeps: then the named one takes its
    place.
    """
    plan = list(plan)
    waiting: dict[str, list[int]] = {}
    for number, planned in enumerate(plan):
        if planned.after and planned.state in (State.todo, State.resume):
            waiting.setdefault(planned.after, []).append(number)
    there = {planned.job_id for planned in plan}
    made: list[PlannedJob] = []
    for job_id, numbers in waiting.items():
        first = plan[numbers[0]]
        if job_id in there or _job_beside(first, job_id).recorded() is not None:
            continue
        named = _make(first, composer)
        if named is None and _job_beside(first, job_id).folder.exists():
            continue  # another process may be doing it: the jobs wait for it
        if named is None or named.job_id != job_id:
            for number in numbers:
                plan[number].error = _problem(first, job_id, named)
                plan[number].state, plan[number].exit_code = State.impossible, ConfigError.exit_code
            continue
        rows = [
            number for number, planned in enumerate(plan) if _is_same_but_for_what_it_keeps(planned, named)
        ]
        if rows:
            plan[rows[0]] = replace(named, overrides=plan[rows[0]].overrides)
            continue
        named.made_for = len(numbers)
        made.append(named)
    return [*made, *plan]


def check_named(planned: PlannedJob) -> None:
    """Raise ConfigError for a job that would run alone and needs another one first, with the
    command that runs both."""
    if not planned.after or planned.state not in (State.todo, State.resume):
        return
    job = _job_beside(planned, planned.after)
    if job.recorded() is None and not is_held(job.folder / LOCK):
        command = as_grid() if planned.after_overrides else None
        first = "this command runs it first, and then this one"
        fix = "run it first" if command is None else f"{first}: {command}"
        raise ConfigError(
            f"{planned.job_id} needs {job.job_id}, which is not done in {job.folder.parent}: {fix}",
            code="not_found",
        )


def overrides_with(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Return a job's overrides with others on top: GROUP=CHOICE replaces all keys of the group,
    too."""
    keys = {line.partition("=")[0] for line in changes}
    kept = [line for line in overrides if not {(key := _key(line)), key.partition(".")[0]} & keys]
    return [*kept, *changes]


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+~")


def _make(planned: PlannedJob, composer: Composer) -> PlannedJob | None:
    """Return the job that another one names; None if it is named by its id."""
    if not planned.after_overrides:
        return None
    overrides = overrides_with(planned.overrides, planned.after_overrides)
    composed, lacking = composer.compose_without_missing_keys([*overrides, KEEPS])
    used = [line for line in overrides if line not in lacking]
    named = plan_composed(used, *without_hydra(composed))
    if KEEPS not in lacking:
        named.filled_in.append(KEEPS)
    return named


def _is_same_but_for_what_it_keeps(planned: PlannedJob, named: PlannedJob) -> bool:
    if planned.config is None or named.config is None or planned.after:
        return False
    own = {key: getattr(named.config.task, key) for key in (*planned.decided, *named.decided)}
    return bool(own) and replace(planned.config, task=replace(planned.config.task, **own)) == named.config


def _job_beside(planned: PlannedJob, job_id: str) -> Job:
    assert planned.job is not None
    return Job(job_id, planned.job.folder.with_name(job_id))


def _problem(planned: PlannedJob, job_id: str, named: PlannedJob | None) -> ConfigError:
    folder = Path(planned.job.folder.parent) if planned.job is not None else Path()
    if named is None:
        return ConfigError(
            f"it needs {job_id} first, and {folder} has no finished job of that id", code="not_found"
        )
    if named.error is not None:
        return ConfigError(
            f"it needs another job first, which cannot work: {named.error}", code=named.error.code
        )
    return ConfigError(
        f"it needs {job_id} first, and the overrides that name it make another job "
        f"({named.job_id}): run it by itself",
        code="mismatch",
    )
