"""A job's record from its first line to MLflow: on disk first, so that a store that fails costs nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from runner.config.root import RunnerConfig, measured_keys
from runner.core import machine, signals
from runner.core.console import PlainFormatter
from runner.core.errors import RunnerError, TrackingError, cannot_write
from runner.core.result import Record, Result, Status
from runner.core.uris import without_secrets
from runner.store import jobs, mlflow_store, pending_runs, tracking

log = logging.getLogger(__name__)


class NotLogged(TrackingError):
    """The job is done and on disk, but MLflow could not be written."""

    def __init__(self, error: TrackingError, record: Record) -> None:
        super().__init__(str(error))
        self.record = record


def new_record(config: RunnerConfig, job: jobs.Job, task_version: int, data: dict[str, str] | None = None) -> Record:
    """Begin a job's record: FAILED until it has ended otherwise."""
    return Record(
        job.job_id,
        Status.FAILED,
        str(job.folder),
        Result(metrics={}),
        task=config.task.name,
        task_version=task_version,
        name=tracking.run_name(config),
        params=dict(tracking.flatten(config)),
        versions=machine.versions() | machine.git_state(),
        data=data or {},
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def start_tracking(config: RunnerConfig, job: jobs.Job, record: Record) -> tracking.Tracker:
    """Start the job's run in MLflow; a grid whose store has gone away meanwhile goes on and is logged later."""
    try:
        return tracking.start(mlflow_store.store_of(config), job, record)
    except TrackingError as error:
        if config.tracking.parent_run_id is None:
            raise
        return tracking.Tracker(problem=error)


def check_store(config: RunnerConfig) -> None:
    """Raise what the store has against this job before its evidence is touched."""
    store = mlflow_store.store_of(config)
    if store is not None:
        try:
            with mlflow_store.clear_errors(store.uri):
                mlflow_store.open_store(store)
        except TrackingError:
            if config.tracking.parent_run_id is None:
                raise


def without_token(config: RunnerConfig, text: str) -> str:
    """Return a text about the job without what is secret in its store's uri."""
    uri = config.tracking.uri
    return text.replace(uri, without_secrets(uri)) if uri else text


def close(tracker: tracking.Tracker, job: jobs.Job, record: Record) -> None:
    """Put the record on disk first, then into MLflow: a store that fails costs nothing that was computed."""
    record.mlflow_run_id = tracker.run_id  # on disk before it is true, for who finds the run and not its mark
    try:
        job.write_record(record)
        say_what_is_aside(job, record)
        tracking.finish(tracker, job, record)
    except RunnerError as error:
        record.mlflow_run_id = None
        if record.status is Status.FINISHED:
            raise NotLogged(error, record) if isinstance(error, TrackingError) else error from None
        log.error("%s", error)  # what ended the job is on its way to the user and matters more
        return
    record.mlflow_uri = tracker.uri
    if record.status is Status.FINISHED:
        job.write_record(record)


def say_what_is_aside(job: jobs.Job, record: Record) -> None:
    """Delete what rerun=... has set aside once the job is done anew; until then, say where it is."""
    if record.status is Status.FINISHED:
        job.drop_aside()
    elif aside := job.aside():
        log.warning("what %s had before rerun=... is kept in %s", job.job_id, aside[-1])


def write_death(config: RunnerConfig, job: jobs.Job, task_version: int, status: Status, message: str) -> None:
    """Write down how a job ended whose process died before it could."""
    try:
        with jobs.claim(job, wait=False):
            record = job.last_record()
            if record is None or record.status is not Status.FINISHED:
                dead = new_record(config, job, task_version)
                job.write_record(replace(dead, status=status, error=message))
            pending_runs.end_dead(job.folder / pending_runs.FILE, job.folder.parents[1], status)
    except RunnerError as error:
        log.warning("%s", error)  # someone else has the job already, or the store is gone: the next start mends it


def recorded(config: RunnerConfig, job: jobs.Job, record: Record) -> Record:
    """Return a recorded result, after asking the store for its run; where it is gone, it is logged again."""
    log.info("%s is already done: this is the recorded result (rerun=all does it again)", job.job_id)
    asked = dict(tracking.flatten(config))
    for key in measured_keys(config):
        if record.params.get(key, asked[key]) != asked[key]:
            what = f"{key}={asked[key]} changes no answer, and what is recorded was measured with {record.params[key]}"
            log.info("%s: rerun=all measures anew", what)
    record.from_ledger = True
    record.output_dir = str(job.folder)  # the output folder may have been moved
    store = mlflow_store.store_of(config)
    if store is not None:
        try:
            log_missing(store, job, record)
        except TrackingError as error:
            if not stood_there(store, record):
                raise NotLogged(error, record) from None
            log.warning("%s. The result was logged there when the job was done", str(error).rstrip("."))
    return record


def log_missing(store: mlflow_store.Store, job: jobs.Job, record: Record) -> bool:
    """Log a recorded result unless the store has it, below the parent that the store names; whether it was logged."""
    held = tracking.end_dead(store, job)
    run_id = held.run_of(job.job_id, store.parent_run_id)
    if run_id is None and (run_id := held.free_run_of(job.job_id)) is not None:
        tracking.adopt(store, run_id)
    if run_id is None:
        with signals.deferred():
            close(tracking.start(store, job, record), job, record)
        return True
    record.mlflow_run_id, record.mlflow_uri = run_id, store.shown
    return False


def stood_there(store: mlflow_store.Store, record: Record) -> bool:
    """Whether a result was logged to this store once: believed only while the store itself cannot be asked."""
    return record.mlflow_uri == store.shown


class LogFile(logging.FileHandler):
    """A log is a help, not the evidence: on a full disk it falls silent, and the job says what is wrong."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        """Say nothing."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep what is logged during the job in its folder, too."""
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
        handler.handle(logging.makeLogRecord(about))  # the trace goes to the file only: stderr gets one message
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()
