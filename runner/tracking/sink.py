"""Where a job's record goes: to disk first and then to MLflow, so that a failing store loses no result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.records import ledger
from runner.records.jobs import Job, claim
from runner.tracking import fetched_jobs, job_runs, pending_runs, tracking_process
from runner.tracking.connection import connected
from runner.tracking.stores import Store, store_of
from runner_base import Record, RunnerError, Status, TrackingError, doing, errors, heartbeat, signals

log = logging.getLogger(__name__)
LEAST_FREE_BYTES = 64 * 1024  # for a job's config, log and record, and a few samples
NEW_DATABASE_BYTES = 2 * 2**20  # MLflow's empty tables in sqlite take half of it


class NotLogged(TrackingError):
    """The job's result is on disk, but MLflow could not be written."""

    def __init__(self, error: TrackingError, record: Record) -> None:
        super().__init__(error.reason, key=error.key, value=error.value, code=error.code)
        self.record = record


class MlflowSink:
    """Writes one job's record, and publishes it as a run in MLflow unless tracking=none.

    A job below a grid's run goes on without a store that has become unreachable, and is logged later.
    """

    def __init__(self, store: Store | None, job: Job) -> None:
        self._store, self._job = store, job
        self._run: job_runs.JobRun | tracking_process.ForkedJobRun | None = None
        self._problem: TrackingError | None = None  # why the run could not be started

    def fetch(self) -> Record | None:
        """Fetch the job's result from a server that has it; the caller holds the job's lock."""
        return None if self._store is None else fetched_jobs.fetch(self._store, self._job)

    def check(self) -> None:
        """Raise the store's errors before the job's evidence is touched."""
        if (store := self._store) is not None:
            with self._going_on_below_a_grid(store), connected(store):
                pass

    def start(self, record: Record, goes_on: bool = False, beside: bool = False) -> None:
        """Start the job's run.

        beside: the caller has other things to do before `wait`, so that a copy of this process may start
        the run.
        """
        if (store := self._store) is None:
            return
        self._problem = None
        with self._going_on_below_a_grid(store):
            with heartbeat.paused():
                if beside and tracking_process.is_possible(store):
                    self._run = tracking_process.ForkedJobRun(store, self._job, record, goes_on)
                    return
            with doing("opening MLflow"):
                self._run = job_runs.start(store, self._job, record, goes_on)

    @contextmanager
    def _going_on_below_a_grid(self, store: Store) -> Iterator[None]:
        """Keep a store's error until the job has ended if a grid's run is above the job's, else raise it."""
        try:
            yield
        except TrackingError as error:
            if store.parent_run_id is None:
                raise
            self._problem = error

    def wait(self) -> None:
        """Wait until the run is started; raise the store's error."""
        if self._run is not None:
            self._run.wait()

    def finish(self, record: Record) -> None:
        """Write the record to disk, and then its metrics, evidence and status to MLflow."""
        # on disk before MLflow has it, so that a kill in between can be repaired
        record.mlflow_run_id = self._run.run_id if self._run is not None else None
        try:
            self._job.write_record(record)
            ledger.clean_up_set_aside(self._job, record)
            if self._problem is not None:
                raise self._problem
            if self._run is not None:
                self._run.finish(record)
        except RunnerError as error:
            record.mlflow_run_id = None
            if not self._job.folder.is_dir():
                self._end(Status.FAILED if record.status is Status.FINISHED else record.status)
            if record.status is Status.FINISHED:
                raise NotLogged(error, record) if isinstance(error, TrackingError) else error from None
            # else it has ended the job itself, or what ended the job says that its folder is gone
            if str(error) not in (record.error or "") and self._job.folder.is_dir():
                log.error("%s", error)  # the error that ended the job is raised, and matters more
            return
        record.mlflow_uri = self._store.shown if self._store is not None else None
        if record.status is Status.FINISHED:
            self._job.write_record(record)

    def _end(self, status: Status) -> None:
        """End the run of a job whose folder was deleted: no later start finds it there."""
        try:
            if self._run is not None:
                self._run.end(status)
        except RunnerError as error:
            log.warning("its run may still be RUNNING there: %s", error)

    def attach(self, record: Record) -> Record:
        """Log a recorded result unless the store has it; NotLogged where the store does not answer and
        has none."""
        try:
            self.log(record)
        except TrackingError as error:
            if self._store is None or not was_logged(self._store, record):
                raise NotLogged(error, record) from None
            log.warning("%s. The result was logged there when the job was done", str(error).rstrip("."))
        return record

    def log(self, record: Record) -> bool:
        """Log a recorded result below the store's parent run unless the store has it; return whether it
        was logged."""
        if (store := self._store) is None:
            return False
        stored = job_runs.end_dead(store, self._job)
        run_id = stored.run_of(self._job.job_id, store.parent_run_id)
        if run_id is None and (run_id := stored.free_run_of(self._job.job_id)) is not None:
            job_runs.move_below_parent(store, run_id)
        if run_id is None:
            with signals.deferred():
                self._run = job_runs.start(store, self._job, record, goes_on=True)
                self.finish(record)
            return True
        record.mlflow_run_id, record.mlflow_uri = run_id, store.shown
        job_runs.note_found(store, self._job.job_id, run_id)
        if store.traces:
            job_runs.log_missing_traces(store, run_id, record, self._job)
        return False


def open_sink(config: RunnerConfig, job: Job) -> MlflowSink:
    """Return the sink of a job with this config; nothing is opened yet."""
    return MlflowSink(store_of(config), job)


def check_free_space(config: RunnerConfig) -> None:
    """Refuse to begin on a full disk: the first thing that cannot be written might come after a
    long load."""
    errors.check_free_space("output_dir", Path(config.output_dir).expanduser().absolute(), LEAST_FREE_BYTES)
    store = store_of(config)
    if store is not None and store.file is not None:
        needed = LEAST_FREE_BYTES if store.file.exists() else NEW_DATABASE_BYTES
        errors.check_free_space("tracking.uri", store.file.absolute().parent, needed)


def write_death(config: RunnerConfig, job: Job, task_version: int, status: Status, message: str) -> None:
    """Record how a job ended whose process died before it could do so."""
    try:
        with claim(job, wait=False):
            record = job.last_record()
            if record is None or record.status is not Status.FINISHED:
                dead = ledger.new_record(config, job, task_version)
                job.write_record(replace(dead, status=status, error=message))
            pending_runs.end_dead(job.folder / pending_runs.FILE, job.folder.parents[1], status)
    except RunnerError as error:
        # another process has the job, or the store is unreachable: the next start corrects it
        log.warning("%s", error)


def was_logged(store: Store, record: Record) -> bool:
    """Return whether the record says that it was logged to this store; relevant only while the
    store is unreachable."""
    return record.mlflow_uri == store.shown
