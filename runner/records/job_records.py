"""Creates a job's record and log file, and reuses the record of a finished job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from runner.config.groups import list_used_plugin_packages
from runner.config.root import RunnerConfig, iterate_keys_affecting_timing
from runner.records import adapter_names, flat_config, model_identity, run_names
from runner.records.jobs import Job
from runner_base import Record, Result, Status, convert_write_error, machine, redact_secrets
from runner_base.console import PlainFormatter

log = logging.getLogger(__name__)


def create_job_record(
    config: RunnerConfig, job: Job, task_version: int, data_set: dict[str, str] | None = None
) -> Record:
    """Return the record of a new job. The initial status is FAILED, in case the job crashes."""
    params = dict(flat_config.flatten_config(config)) | list_used_plugin_packages(config)
    adapter = adapter_names.make_unique_adapter_name(config)
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
    """Return a finished job's record. Logs config keys that differ from the recorded values."""
    log.info("%s is already complete: this is the recorded result (rerun=all runs the job again)", job.job_id)
    requested = dict(flat_config.flatten_config(config))
    for key in iterate_keys_affecting_timing(config):
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


def redact_store_uri_in_text(config: RunnerConfig, text: str) -> str:
    uri = config.tracking.uri
    return text.replace(uri, redact_secrets(uri)) if uri else text


def delete_or_report_replaced_results(job: Job, record: Record) -> None:
    if record.status is Status.FINISHED:
        job.delete_backup_folders()
    elif folders := job.list_replaced_result_folders():
        log.warning("the results of %s that rerun=... replaced are still in %s", job.job_id, folders[-1])


class LogFile(logging.FileHandler):
    """Log file handler that ignores write errors such as a full disk. The job itself reports such
    errors.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        ...


@contextmanager
def attach_job_log_file(path: Path) -> Iterator[None]:
    """Also write log messages to a file in the job's folder while this block runs."""
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
