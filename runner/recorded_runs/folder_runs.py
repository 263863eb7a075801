"""The runs of a folder by what its jobs have recorded: with tracking=none, and in place of their
runs in MLflow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from sys import intern

from runner.config.tasks import TASKS
from runner.records.jobs import OLD, RESULT, Job
from runner.tracking import job_runs, published
from runner.tracking.stored_runs import FINISHED, JOB_ID, PARENT
from runner.tracking.stores import EXPERIMENT, Store
from runner_base import ConfigError, EvidenceError, Record, Status, say
from runner_compare import ENGINE, Run
from runner_compare.statistics import with_means

EPOCH = "1970-01-01T00:00:00+00:00"  # of records without a time
Dated = tuple[int, Run]  # a run with the time of its start, in ms


@dataclass
class FolderRuns:
    """What a folder's records say of the runs of an experiment."""

    # in MLflow, unless they were deleted there
    published: list[Dated] = field(default_factory=list)
    unpublished: list[Dated] = field(default_factory=list)  # only in the folder
    damaged: dict[str, str] = field(default_factory=dict)  # job id -> why its record cannot be read


def has_records(output_dir: Path) -> bool:
    """Whether any job of an output folder has recorded a result."""
    return next(_jobs(output_dir), None) is not None


def recorded_runs(output_dir: Path, job_ids: Collection[str] | None = None) -> list[Run]:
    """Return the finished jobs of a folder without a database, newest first, then those with errors
    in questions; of all jobs or some."""
    here = FolderRuns()
    runs = [
        _run(job, record)
        for job, record in _records(_jobs(output_dir), here)
        if job_ids is None or job.job_id in job_ids
    ]
    for text in here.damaged.values():
        say(f"note: left out: {text}")
    if not runs and job_ids is None:
        raise ConfigError(f"no finished job in {output_dir / 'jobs'} yet", code="empty")
    return in_order(runs)


def runs_of_jobs(output_dir: Path, job_ids: Iterable[str]) -> list[Run]:
    """Return the runs of some jobs of a folder, in the order of their ids, as far as they have
    finished."""
    jobs = (Job(job_id, output_dir / "jobs" / job_id) for job_id in job_ids)
    return [_run(job, record)[1] for job, record in _records(jobs, FolderRuns())]


def in_order(dated: Iterable[Dated]) -> list[Run]:
    """Return the finished runs, newest first, then runs with errors of jobs that have never
    finished."""
    newest = [run for _, run in sorted(dated, key=lambda pair: (-pair[0], pair[1].run_id))]
    done = {run.job_id for run in newest if not run.errors}
    return [run for run in newest if not run.errors] + [
        run for run in newest if run.errors and run.job_id not in done
    ]


def runs_of_experiment(store: Store, identity: str, job_ids: Collection[str] | None) -> FolderRuns:
    """Return the runs of an experiment that the store's output folder has records of, of all jobs
    or some."""
    noted = {
        published_run.mlflow_id: published_run
        for published_run in published.noted(store.output_dir)
        if published_run.identity == identity
    }
    if job_ids is None and store.is_own:
        jobs = _jobs(store.output_dir)
    else:  # other records do not belong to the store
        wanted = {published_run.key for published_run in noted.values()} if job_ids is None else job_ids
        jobs = (Job(job_id, store.output_dir / "jobs" / job_id) for job_id in wanted)
    here = FolderRuns()
    for job, record in _records(jobs, here):
        if (run := noted.get(record.mlflow_run_id or "")) is not None and run.key == job.job_id:
            here.published.append(_run(job, record, run))
        elif store.is_own and _is_unpublished(record, store.experiment):
            here.unpublished.append(_run(job, record))
    return here


def _is_unpublished(record: Record, experiment: str) -> bool:
    """Whether a record has never reached MLflow, and belongs to this experiment."""
    logged = record.mlflow_uri if record.status is Status.FINISHED else record.mlflow_run_id
    return logged is None and record.params.get("tracking.experiment", EXPERIMENT) == experiment


def _jobs(output_dir: Path) -> Iterator[Job]:
    """Yield the jobs of an output folder with a record, without what rerun has set aside."""
    for path in (output_dir / "jobs").glob(f"*/{RESULT}"):
        if OLD not in path.parent.name:
            yield Job(path.parent.name, path.parent)


def _records(jobs: Iterator[Job], here: FolderRuns) -> Iterator[tuple[Job, Record]]:
    """Yield the jobs that have finished or ended with errors, with their records; note those that
    cannot be read."""
    for job in jobs:
        try:
            record = job.last_record()
        except EvidenceError as error:
            here.damaged[job.job_id] = str(error)
            continue
        if record is not None and (record.status is Status.FINISHED or record.result.metrics.get("errors")):
            yield job, record


def _run(job: Job, record: Record, noted: published.Published | None = None) -> Dated:
    tags, started_at = (job_runs.tags_of(job, record), datetime.fromisoformat(record.started_at or EPOCH))
    ids = (noted.mlflow_id, noted.time_ms) if noted else (record.job_id, round(started_at.timestamp() * 1000))
    if noted and noted.parent:
        tags[PARENT] = noted.parent
    return run_of(*ids, record.status.value, job_runs.params_of(record), tags, job_runs.metrics_of(record))


def run_of(
    run_id: str,
    started_ms: int,
    status: str,
    params: dict[str, str],
    tags: dict[str, str],
    metrics: dict[str, float],
) -> Dated:
    """Return a run of MLflow; most keys and values of runs are the same texts, which are kept
    once."""
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
        metrics={intern(key): value for key, value in with_means(metrics).items()},
        grid=intern(tags.get(PARENT, "")),
        facts={intern(key[5:]): intern(value) for key, value in tags.items() if key.startswith("fact.")},
        has_fresh_processes=getattr(TASKS.get(task), "has_fresh_processes", False),
        errors=0 if status == FINISHED else int(metrics.get("errors", 0)),
    )
    return started_ms, run
