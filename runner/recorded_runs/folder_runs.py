"""Reads runs from the job records of an output folder, without querying MLflow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from sys import intern

from runner.config.tasks import TASKS
from runner.records.jobs import OLD, RESULT, Job
from runner.tracking import job_runs, published_index
from runner.tracking.stored_runs import FINISHED, JOB_ID, PARENT
from runner.tracking.stores import EXPERIMENT, Store
from runner_base import ConfigError, Record, RunRecordError, Status, print_message
from runner_base.renamed_keys import update_renamed_param_keys
from runner_compare import ENGINE, Run
from runner_compare.statistics import replace_vote_by_mean_accuracy

EPOCH = "1970-01-01T00:00:00+00:00"  # of records without a time
DatedRun = tuple[int, Run]  # a run with the time of its start, in ms


@dataclass
class FolderRuns:
    """Runs of an MLflow experiment, read from the job records of an output folder."""

    # in MLflow, unless they were deleted there
    published: list[DatedRun] = field(default_factory=list)
    unpublished: list[DatedRun] = field(default_factory=list)  # only in the folder
    damaged: dict[str, str] = field(default_factory=dict)  # job id -> why its record cannot be read


def has_job_records(output_dir: Path) -> bool:
    return next(_iterate_recorded_jobs(output_dir), None) is not None


def load_recorded_runs(output_dir: Path, job_ids: Collection[str] | None = None) -> list[Run]:
    """Return the runs in an output folder, newest first. Runs with failed questions come last."""
    here = FolderRuns()
    runs = [
        _build_run_from_record(job, record)
        for job, record in _iterate_usable_records(_iterate_recorded_jobs(output_dir), here)
        if job_ids is None or job.job_id in job_ids
    ]
    for text in here.damaged.values():
        print_message(f"note: left out: {text}")
    if not runs and job_ids is None:
        raise ConfigError(f"no completed job in {output_dir / 'jobs'}", code="empty")
    return sort_runs_by_status_and_time(runs)


def load_runs_of_jobs(output_dir: Path, job_ids: Iterable[str]) -> list[Run]:
    jobs = (Job(job_id, output_dir / "jobs" / job_id) for job_id in job_ids)
    return [
        _build_run_from_record(job, record)[1] for job, record in _iterate_usable_records(jobs, FolderRuns())
    ]


def sort_runs_by_status_and_time(dated_runs: Iterable[DatedRun]) -> list[Run]:
    """Sort runs by status and time: finished before failed, then newest first.

    Failed runs are dropped if the same job has a finished run.
    """
    newest = [run for _, run in sorted(dated_runs, key=lambda pair: (-pair[0], pair[1].run_id))]
    done = {run.job_id for run in newest if not run.errors}
    return [run for run in newest if not run.errors] + [
        run for run in newest if run.errors and run.job_id not in done
    ]


def load_experiment_runs(
    store: Store, experiment_identity: str, job_ids: Collection[str] | None
) -> FolderRuns:
    noted = {
        published_run.mlflow_id: published_run
        for published_run in published_index.read_index_entries(store.output_dir)
        if published_run.identity == experiment_identity
    }
    if job_ids is None and store.is_default_database:
        jobs = _iterate_recorded_jobs(store.output_dir)
    else:  # other records do not belong to the store
        wanted = {published_run.key for published_run in noted.values()} if job_ids is None else job_ids
        jobs = (Job(job_id, store.output_dir / "jobs" / job_id) for job_id in wanted)
    here = FolderRuns()
    for job, record in _iterate_usable_records(jobs, here):
        if (run := noted.get(record.mlflow_run_id or "")) is not None and run.key == job.job_id:
            here.published.append(_build_run_from_record(job, record, run))
        elif store.is_default_database and _is_missing_in_mlflow(record, store.experiment):
            here.unpublished.append(_build_run_from_record(job, record))
    return here


def _is_missing_in_mlflow(record: Record, experiment: str) -> bool:
    logged = record.mlflow_uri if record.status is Status.FINISHED else record.mlflow_run_id
    return logged is None and record.params.get("tracking.experiment", EXPERIMENT) == experiment


def _iterate_recorded_jobs(output_dir: Path) -> Iterator[Job]:
    """Yield all jobs of an output folder that have a record. Skips results that rerun=... has
    replaced.
    """
    for path in (output_dir / "jobs").glob(f"*/{RESULT}"):
        if OLD not in path.parent.name:
            yield Job(path.parent.name, path.parent)


def _iterate_usable_records(jobs: Iterator[Job], folder_runs: FolderRuns) -> Iterator[tuple[Job, Record]]:
    """Yield jobs with a finished or partly failed record. Adds unreadable records to `damaged`."""
    for job in jobs:
        try:
            record = job.read_last_record()
        except RunRecordError as error:
            folder_runs.damaged[job.job_id] = str(error)
            continue
        if record is not None and (record.status is Status.FINISHED or record.result.metrics.get("errors")):
            yield job, record


def _build_run_from_record(
    job: Job, record: Record, published_run: published_index.PublishedEntry | None = None
) -> DatedRun:
    tags, started_at = (
        job_runs.build_run_tags(job, record),
        datetime.fromisoformat(record.started_at or EPOCH),
    )
    ids = (
        (published_run.mlflow_id, published_run.time_ms)
        if published_run
        else (record.job_id, round(started_at.timestamp() * 1000))
    )
    if published_run and published_run.parent:
        tags[PARENT] = published_run.parent
    return build_run_with_start_time(
        *ids, record.status.value, job_runs.build_run_params(record), tags, job_runs.build_run_metrics(record)
    )


def build_run_with_start_time(
    run_id: str,
    started_ms: int,
    status: str,
    params: dict[str, str],
    tags: dict[str, str],
    metrics: dict[str, float],
) -> DatedRun:
    params = update_renamed_param_keys(params)
    if "fact.engine" in tags:
        params = params | {ENGINE: tags["fact.engine"]}
    task = tags.get("task", "unknown")
    run = Run(
        run_id=run_id,
        job_id=tags[JOB_ID],
        task=task,
        task_version=tags.get("task_version", ""),
        folder=tags.get("output_dir", ""),
        params={intern(key): intern(value) for key, value in params.items()},
        metrics={intern(key): value for key, value in replace_vote_by_mean_accuracy(metrics).items()},
        grid=intern(tags.get(PARENT, "")),
        facts={intern(key[5:]): intern(value) for key, value in tags.items() if key.startswith("fact.")},
        has_fresh_processes=getattr(TASKS.get(task), "has_fresh_processes", False),
        errors=0 if status == FINISHED else int(metrics.get("errors", 0)),
    )
    return started_ms, run
