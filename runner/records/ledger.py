"""A job's record and log in its folder: how they begin, and what a job that is recorded already says."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from runner.config.groups import packages_of
from runner.config.root import RunnerConfig, measured_keys
from runner.records import adapter_names, flat_config, model_identity, run_names
from runner.records.jobs import Job
from runner_base import Record, Result, Status, cannot_write, machine, without_secrets
from runner_base.console import PlainFormatter

log = logging.getLogger(__name__)


def new_record(
    config: RunnerConfig, job: Job, task_version: int, data: dict[str, str] | None = None
) -> Record:
    """Return a new record of a job, FAILED until the job has ended otherwise."""
    params = dict(flat_config.flatten(config)) | packages_of(config)
    adapter = adapter_names.told_apart(config)
    return Record(
        job.job_id,
        Status.FAILED,
        str(job.folder),
        Result(metrics={}),
        task=config.task.name,
        task_version=task_version,
        name=run_names.run_name(config, adapter),
        params=params,
        versions=machine.versions() | machine.git_state(),
        data=data or {},
        model=model_identity.describe(config, params, job.model_sha256, adapter),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reuse(config: RunnerConfig, job: Job, record: Record) -> Record:
    """Return a recorded result as that of this start, and log which keys it was measured with that have
    another value now."""
    log.info("%s is already done: this is the recorded result (rerun=all runs it again)", job.job_id)
    requested = dict(flat_config.flatten(config))
    for key in measured_keys(config):
        value = requested[key]
        if record.params.get(key, value) != value:
            log.info(
                "%s=%s changes no answer, and the recorded job was measured with %s: rerun=all measures again",
                key,
                value,
                record.params[key],
            )
    record.from_ledger = True
    record.output_dir = str(job.folder)  # the output folder may have been moved
    return record


def without_token(config: RunnerConfig, text: str) -> str:
    """Return a text without the secrets in the uri of the job's store."""
    uri = config.tracking.uri
    return text.replace(uri, without_secrets(uri)) if uri else text


def clean_up_set_aside(job: Job, record: Record) -> None:
    """Delete what rerun=... has set aside once the job is done again; until then, say where it
    is."""
    if record.status is Status.FINISHED:
        job.delete_set_aside()
    elif folders := job.set_aside_folders():
        log.warning("earlier results of %s, set aside by rerun=..., are kept in %s", job.job_id, folders[-1])


class LogFile(logging.FileHandler):
    """A log file that ignores a full disk: the job itself reports that error."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        """Print nothing."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write what is logged during the job to a file in its folder, too."""
    try:
        handler = LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    root = logging.getLogger()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    try:
        yield
    except Exception:
        about = {"name": __name__, "levelname": "ERROR", "msg": "the job failed", "exc_info": sys.exc_info()}
        # the traceback goes only to the file: stderr gets one message
        handler.handle(logging.makeLogRecord(about))
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()
