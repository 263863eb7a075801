"""The runs of an output folder without an MLflow database (tracking=none): what its jobs have recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from runner.compare.data import Run
from runner.core.console import say
from runner.core.errors import ConfigError, EvidenceError
from runner.core.result import Record, Status
from runner.store.jobs import OLD, RESULT, Job


def has_records(output_dir: Path) -> bool:
    """Whether any job of an output folder has recorded a result."""
    return next(_jobs(output_dir), None) is not None


def recorded_runs(output_dir: Path) -> list[Run]:
    """Return the finished jobs, newest first, then those that ended with errors in some questions."""
    records: list[tuple[Job, Record]] = []
    for job in _jobs(output_dir):
        try:
            record = job.last_record()
        except EvidenceError as error:
            say(f"note: left out: {error}")
            continue
        if record is not None:
            records.append((job, record))
    records.sort(key=lambda it: it[1].started_at, reverse=True)
    finished = [_run(job, record) for job, record in records if record.status is Status.FINISHED]
    others = [(job, record) for job, record in records if record.status is not Status.FINISHED]
    with_errors = [_run(job, record, errors) for job, record in others if (errors := _errors(record))]
    if not finished and not with_errors:
        raise ConfigError(f"no finished job in {output_dir / 'jobs'} yet")
    return finished + with_errors


def _jobs(output_dir: Path) -> Iterator[Job]:
    """Yield the jobs of an output folder with a record, without what rerun has set aside."""
    for path in (output_dir / "jobs").glob(f"*/{RESULT}"):
        if OLD not in path.parent.name:
            yield Job(path.parent.name, path.parent)


def _errors(record: Record) -> int:
    return int(record.result.metrics.get("errors", 0))


def _run(job: Job, record: Record, errors: int = 0) -> Run:
    result = record.result
    return Run(
        run_id=record.job_id,
        job_id=record.job_id,
        task=record.task,
        task_version=str(record.task_version),
        folder=str(job.folder),
        params=record.params,
        metrics={key: value for key, value in result.metrics.items() if math.isfinite(value)},
        facts=result.facts,
        errors=errors,
    )
