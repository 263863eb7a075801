"""A job's record, written to disk first and then to MLflow, so that a failing store loses no
result."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from runner.config.groups import packages_of
from runner.config.root import RunnerConfig, measured_keys
from runner.store import (
    adapter_names,
    jobs,
    logged_models,
    mlflow_store,
    pending_runs,
    tracking,
    tracking_process,
)
from runner_base import (
    Record,
    Result,
    RunnerError,
    Status,
    TrackingError,
    cannot_write,
    doing,
    errors,
    heartbeat,
    machine,
    signals,
    without_secrets,
)
from runner_base.console import PlainFormatter

log = logging.getLogger(__name__)
Tracker = tracking.Tracker | tracking_process.TrackerBeside
LEAST_FREE_BYTES = 64 * 1024  # for a job's config, log and record, and a few samples
NEW_DATABASE_BYTES = 2 * 2**20  # MLflow's empty tables in sqlite take half of it


class NotLogged(TrackingError):
    """The job's result is on disk, but MLflow could not be written."""

    def __init__(self, error: TrackingError, record: Record) -> None:
        super().__init__(error.reason, key=error.key, value=error.value, code=error.code)
        self.record = record


def new_record(
    config: RunnerConfig, job: jobs.Job, task_version: int, data: dict[str, str] | None = None
) -> Record:
    """Return a new record of a job, FAILED until the job has ended otherwise."""
    params = dict(tracking.flatten(config)) | packages_of(config)
    adapter = adapter_names.told_apart(config)
    return Record(
        job.job_id,
        Status.FAILED,
        str(job.folder),
        Result(metrics={}),
        task=config.task.name,
        task_version=task_version,
        name=tracking.run_name(config, adapter),
        params=params,
        versions=machine.versions() | machine.git_state(),
        data=data or {},
        model=logged_models.describe(config, params, job.model_sha256, adapter),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def start_tracking(
    config: RunnerConfig, job: jobs.Job, record: Record, goes_on: bool = False, beside: bool = False
) -> Tracker:
    """Start the job's run in MLflow; if a grid's store has become unreachable, the job runs and is
    logged later.

    beside: the caller has other things to do before it waits for the run, so that a copy of this
    process may start it.
    """
    store = mlflow_store.store_of(config)
    try:
        with heartbeat.paused():
            if beside and store is not None and tracking_process.is_possible(store):
                return tracking_process.TrackerBeside(store, job, record, goes_on)
        with doing("opening MLflow"):
            return tracking.start(store, job, record, goes_on)
    except TrackingError as error:
        if config.tracking.parent_run_id is None:
            raise
        return tracking.Tracker(problem=error)


def check_free_space(config: RunnerConfig) -> None:
    """Refuse to begin on a full disk: the first thing that cannot be written might come after a
    long load."""
    errors.check_free_space("output_dir", Path(config.output_dir).expanduser().absolute(), LEAST_FREE_BYTES)
    store = mlflow_store.store_of(config)
    if store is not None and store.file is not None:
        needed = LEAST_FREE_BYTES if store.file.exists() else NEW_DATABASE_BYTES
        errors.check_free_space("tracking.uri", store.file.absolute().parent, needed)


def check_store(config: RunnerConfig) -> None:
    """Raise the store's errors before the job's evidence is touched."""
    store = mlflow_store.store_of(config)
    if store is not None:
        try:
            with mlflow_store.clear_errors(store.uri):
                mlflow_store.open_store(store)
        except TrackingError:
            if config.tracking.parent_run_id is None:
                raise


def without_token(config: RunnerConfig, text: str) -> str:
    """Return a text without the secrets in the uri of the job's store."""
    uri = config.tracking.uri
    return text.replace(uri, without_secrets(uri)) if uri else text


def close(tracker: Tracker, job: jobs.Job, record: Record) -> None:
    """Write the record to disk and then to MLflow, so that a failing store loses no result."""
    # on disk before MLflow has it, so that a kill in between can be repaired
    record.mlflow_run_id = tracker.run_id
    try:
        job.write_record(record)
        clean_up_set_aside(job, record)
        if isinstance(tracker, tracking.Tracker):
            tracking.finish(tracker, job, record)
        else:
            tracker.finish(record)
    except RunnerError as error:
        record.mlflow_run_id = None
        if not job.folder.is_dir():
            end_without_record(tracker, Status.FAILED if record.status is Status.FINISHED else record.status)
        if record.status is Status.FINISHED:
            raise NotLogged(error, record) if isinstance(error, TrackingError) else error from None
        # else it has ended the job itself, or what ended the job says that its folder is gone
        if str(error) not in (record.error or "") and job.folder.is_dir():
            log.error("%s", error)  # the error that ended the job is raised, and matters more
        return
    record.mlflow_uri = tracker.uri
    if record.status is Status.FINISHED:
        job.write_record(record)


def end_without_record(tracker: Tracker, status: Status) -> None:
    """End the run of a job whose folder was deleted: no later start finds it there."""
    try:
        if isinstance(tracker, tracking.Tracker):
            tracking.end(tracker, status)
        else:
            tracker.end(status)
    except RunnerError as error:
        log.warning("its run may still be RUNNING there: %s", error)


def clean_up_set_aside(job: jobs.Job, record: Record) -> None:
    """Delete what rerun=... has set aside once the job is done again; until then, say where it
    is."""
    if record.status is Status.FINISHED:
        job.delete_set_aside()
    elif folders := job.set_aside_folders():
        log.warning("earlier results of %s, set aside by rerun=..., are kept in %s", job.job_id, folders[-1])


def write_death(config: RunnerConfig, job: jobs.Job, task_version: int, status: Status, message: str) -> None:
    """Record how a job ended whose process died before it could do so."""
    try:
        with jobs.claim(job, wait=False):
            record = job.last_record()
            if record is None or record.status is not Status.FINISHED:
                dead = new_record(config, job, task_version)
                job.write_record(replace(dead, status=status, error=message))
            pending_runs.end_dead(job.folder / pending_runs.FILE, job.folder.parents[1], status)
    except RunnerError as error:
        # another process has the job, or the store is unreachable: the next start corrects it
        log.warning("%s", error)


def recorded(config: RunnerConfig, job: jobs.Job, record: Record) -> Record:
    """Return a recorded result, after looking for its run in the store; a result without a run is
    logged again."""
    log.info("%s is already done: this is the recorded result (rerun=all runs it again)", job.job_id)
    requested = dict(tracking.flatten(config))
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
    store = mlflow_store.store_of(config)
    if store is not None:
        log_kept(store, job, record)
    return record


def log_kept(store: mlflow_store.Store, job: jobs.Job, record: Record) -> None:
    """Log a result that is on disk unless the store has it; NotLogged where it has none and does
    not answer."""
    try:
        log_missing(store, job, record)
    except TrackingError as error:
        if not was_logged(store, record):
            raise NotLogged(error, record) from None
        log.warning("%s. The result was logged there when the job was done", str(error).rstrip("."))


def log_missing(store: mlflow_store.Store, job: jobs.Job, record: Record) -> bool:
    """Log a recorded result below the store's parent run unless the store has it; return whether it
    was logged."""
    stored = tracking.end_dead(store, job)
    run_id = stored.run_of(job.job_id, store.parent_run_id)
    if run_id is None and (run_id := stored.free_run_of(job.job_id)) is not None:
        tracking.move_below_parent(store, run_id)
    if run_id is None:
        with signals.deferred():
            close(tracking.start(store, job, record, goes_on=True), job, record)
        return True
    record.mlflow_run_id, record.mlflow_uri = run_id, store.shown
    tracking.note_found(store, job.job_id, run_id)
    if store.traces:
        tracking.log_missing_traces(store, run_id, record, job)
    return False


def was_logged(store: mlflow_store.Store, record: Record) -> bool:
    """Return whether the record says that it was logged to this store; relevant only while the
    store is unreachable."""
    return record.mlflow_uri == store.shown


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
