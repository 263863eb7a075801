"""The runs of an output folder without an MLflow database (tracking=none): what its jobs have recorded."""

from __future__ import annotations

import math
from pathlib import Path

from runner.compare.data import Run
from runner.core.console import say
from runner.core.errors import ConfigError, EvidenceError
from runner.core.result import Record, Status
from runner.store.jobs import OLD, RESULT, Job


def has_records(output_dir: Path) -> bool:
    """Whether any job of an output folder has recorded a result."""
    return any((output_dir / "jobs").glob(f"*/{RESULT}"))


def recorded_runs(output_dir: Path) -> list[Run]:
    """Return the finished jobs, newest first, then those that ended with errors in some questions."""
    finished: list[tuple[str, Run]] = []
    with_errors: list[tuple[str, Run]] = []
    for path in (output_dir / "jobs").glob(f"*/{RESULT}"):
        job = Job(path.parent.name, path.parent)
        try:
            record = job.last_record()
        except EvidenceError as error:
            say(f"note: left out: {error}")
            continue
        if record is None or OLD in job.job_id:
            continue
        if record.status is Status.FINISHED:
            finished.append((record.started_at, _run(job, record)))
        elif errors := int(record.result.metrics.get("errors", 0)):
            with_errors.append((record.started_at, _run(job, record, errors)))
    if not finished and not with_errors:
        raise ConfigError(f"no finished job in {output_dir / 'jobs'} yet")
    return [run for some in (finished, with_errors) for _, run in sorted(some, key=lambda it: it[0], reverse=True)]


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
