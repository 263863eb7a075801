"""Creates a job's record and log file, and reuses the record of a finished job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from runner.config.groups import used_plugin_packages
from runner.config.root import RunnerConfig, iterate_measurement_keys
from runner.records import adapter_names, flat_config, model_identity, run_names
from runner.records.jobs import Job
from runner_base import Record, Result, Status, convert_write_error, machine, redact_secrets
from runner_base.console import PlainFormatter

log = logging.getLogger(__name__)


def create_job_record(
    config: RunnerConfig, job: Job, task_version: int, data_set: dict[str, str] | None = None
) -> Record:
    """Return a new record of a job. Its status is FAILED until the job ends otherwise."""
    params = dict(flat_config.flatten_config(config)) | used_plugin_packages(config)
    adapter = adapter_names.unique_adapter_name(config)
    return Record(
        job.job_id,
        Status.FAILED,
        str(job.folder),
        Result(metrics={}),
        task=config.task.name,
        task_version=task_version,
        name=run_names.create_run_name(config, adapter),
        params=params,
        versions=machine.library_versions() | machine.read_git_state(),
        data=data_set or {},
        model=model_identity.describe_model(config, params, job.model_sha256, adapter),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reuse_finished_record(config: RunnerConfig, job: Job, record: Record) -> Record:
    """Return a finished record for this start, and log config keys whose value differed when it was
    measured.
    """
    log.info("%s is already complete: this is the recorded result (rerun=all runs the job again)", job.job_id)
    requested = dict(flat_config.flatten_config(config))
    for key in iterate_measurement_keys(config):
        value = requested[key]
        if record.params.get(key, value) != value:
            log.info(
                (
                    "%s=%s changes no answer, but the recorded job was measured with %s. Measure "
                    "again with rerun=all"
                ),
                key,
                value,
                record.params[key],
            )
    record.from_ledger = True
    record.output_dir = str(job.folder)  # the output folder may have been moved
    return record


def redact_store_uri(config: RunnerConfig, text: str) -> str:
    """Return a text in which secrets of the store's uri are replaced."""
    uri = config.tracking.uri
    return text.replace(uri, redact_secrets(uri)) if uri else text


def delete_or_report_set_aside(job: Job, record: Record) -> None:
    """Delete files that a rerun has set aside once the job is done again. Until then, log where they
    are.
    """
    if record.status is Status.FINISHED:
        job.delete_set_aside()
    elif folders := job.set_aside_folders():
        log.warning("earlier results of %s, replaced by rerun=..., are in %s", job.job_id, folders[-1])


class LogFile(logging.FileHandler):
    """Log file handler that ignores a full disk, because the job reports that error."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        ...


@contextmanager
def job_log_file(path: Path) -> Iterator[None]:
    """While this block runs, also write log messages to a file in the job's folder."""
    try:
        handler = LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise convert_write_error(path, error) from error
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
