"""Reads a grid's plan, and determines why planned jobs have no result."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.records import grid_records
from runner.records.jobs import LOCK, Job
from runner.tracking.connection import convert_store_errors
from runner.tracking.grid_runs import PLAN
from runner.tracking.stored_runs import (
    JOB_ID,
    PARENT,
    RUNNING,
    download_artifact,
    find_experiment,
    read_error_message,
    search_runs,
)
from runner.tracking.stores import EXPERIMENT, Store
from runner_base import ConfigError, RunRecordError, Status, parse_json, to_one_line
from runner_base.files import is_locked
from runner_base.renamed_keys import update_renamed_param_keys
from runner_compare import Records

IMPOSSIBLE = "impossible"  # a plan's word for a job whose config is invalid
NOT_STARTED = "not started"
# the states of jobs without a result, by their statuses
STATES = {Status.FAILED.value: "failed", Status.KILLED.value: "interrupted", RUNNING: "running"}


@dataclass(frozen=True)
class GridPlan:
    grid: str  # its run in MLflow, or its digest
    jobs: tuple[Mapping[str, Any], ...]
    config: Mapping[str, str]  # keys in which all jobs agree

    @property
    def job_ids(self) -> list[str]:
        """The job ids of the grid, without duplicates."""
        return list(dict.fromkeys(job["job_id"] for job in self.jobs if job["job_id"]))

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment to which the jobs are logged."""
        return self.config.get("tracking.experiment", EXPERIMENT)


def download_grid_plan(client: Any, grid_run_id: str, temp_folder: Path) -> GridPlan | None:
    path = download_artifact(client, grid_run_id, PLAN, temp_folder / grid_run_id)
    if path is None:
        return None
    try:
        return _parse_grid_plan(grid_run_id, parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            (
                "the grid's MLflow run has a damaged artifact plan.json "
                f"({to_one_line(error, limit=100)}). Select the grid's jobs with --runs or --where"
            ),
            key="--grid",
            value=grid_run_id,
            code="damaged",
        ) from error


def load_folder_plans(output_dir: Path) -> list[GridPlan]:
    return [
        GridPlan(record.grid, tuple(record.jobs), record.config)
        for record in grid_records.read_grid_records(output_dir)
    ]


def find_grid_plan_in_folder(output_dir: Path, grid_prefix: str, newest_keyword: str) -> GridPlan:
    plans = load_folder_plans(output_dir)
    if not plans:
        raise ConfigError(
            f"{output_dir} contains no record of a grid", key="--grid", value=grid_prefix, code="not_found"
        )
    matching = [plan for plan in plans if plan.grid.startswith(grid_prefix)]
    if grid_prefix == newest_keyword:
        matching = plans[:1]
    if len(matching) != 1:
        count = "several grids begin with it" if matching else "no grid has this name"
        listed = ", ".join(plan.grid for plan in (matching or plans)[:6])
        raise ConfigError(
            f"{count}. Newest first: {listed}",
            key="--grid",
            value=grid_prefix,
            code="ambiguous" if matching else "not_found",
        )
    return matching[0]


def add_grid_jobs_without_result(
    records: Records, plan: GridPlan, output_dir: Path, client: Any = None, store: Store | None = None
) -> None:
    """Add the grid's jobs that have no result, each with the reason.

    Queries MLflow only for jobs without a local folder.
    """
    with_result = {run.job_id for run in records.runs}
    jobs, seen = records.register_grid_jobs(plan.job_ids), set[str]()
    in_mlflow: dict[str, Any] | None = None
    for planned in plan.jobs:
        job_id = planned["job_id"] or ""
        if job_id in with_result or (job_id and job_id in seen):
            continue
        seen.add(job_id)
        folder = output_dir / "jobs" / job_id
        found: tuple[str, str] | None
        if planned.get("planned") == IMPOSSIBLE or not job_id:
            found = IMPOSSIBLE, planned.get("problem") or ""
        elif folder.is_dir():
            found = _read_job_state_from_folder(Job(job_id, folder))
        else:
            if in_mlflow is None and client is not None and store is not None:
                in_mlflow = _fetch_newest_runs(client, store, plan.grid)
            found = _get_job_state_from_mlflow((in_mlflow or {}).get(job_id), planned)
        if found is not None:
            jobs.add_missing(
                _get_planned_job_name(plan, planned), job_id, *found, _get_planned_job_params(plan, planned)
            )


def _parse_grid_plan(grid: str, content: Mapping[str, Any]) -> GridPlan:
    jobs = tuple(content["jobs"])
    for job in jobs:
        job["job_id"], job.get("overrides")  # what everything below relies on
    return GridPlan(grid, jobs, content.get("config") or {})


def _read_job_state_from_folder(job: Job) -> tuple[str, str] | None:
    """Return the job's state and error from its folder. None if the job has finished."""
    with suppress(PermissionError):  # a folder that only others may write
        if is_locked(job.folder / LOCK):
            return STATES[RUNNING], ""
    try:
        record = job.read_last_record()
    except RunRecordError as error:
        return STATES[Status.FAILED.value], str(error)
    if record is None:
        has_begun = any(not path.name.startswith(".") for path in job.folder.iterdir())
        return (STATES[Status.KILLED.value] if has_begun else NOT_STARTED), ""
    if record.status is Status.FINISHED:
        return None
    return STATES[record.status.value], record.error or ""


def _get_job_state_from_mlflow(run: Any, planned_job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the job's state and error from its newest MLflow run. None if the job has finished."""
    problem = planned_job.get("problem") or ""
    if run is None:
        return STATES.get(planned_job.get("status") or "", NOT_STARTED), problem
    if run.info.status not in STATES:
        return None
    return STATES[run.info.status], "" if run.info.status == RUNNING else problem


def _fetch_newest_runs(client: Any, store: Store, grid: str) -> dict[str, Any]:
    with convert_store_errors(read_error_message):
        experiment = find_experiment(client, store.experiment)
        runs = [*search_runs(client, experiment.experiment_id, f"tags.`{PARENT}` = '{grid}'")]
    return {run.data.tags[JOB_ID]: run for run in reversed(runs) if JOB_ID in run.data.tags}


def _get_planned_job_name(plan: GridPlan, planned_job: Mapping[str, Any]) -> str:
    """Return the name of a planned job.

    Without a name, return the overrides that distinguish the job from the plan's other jobs.
    """
    if planned_job.get("name"):
        return str(planned_job["name"])
    own = planned_job.get("overrides") or []
    shared = set.intersection(*({*(job.get("overrides") or [])} for job in plan.jobs))
    return " ".join(text for text in own if text not in shared) or planned_job["job_id"] or " ".join(own)


def _get_planned_job_params(plan: GridPlan, planned_job: Mapping[str, Any]) -> dict[str, str] | None:
    own = planned_job.get("config")
    return None if own is None else update_renamed_param_keys({**plan.config, **own})
