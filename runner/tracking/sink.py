"""Writes a job's record first to disk and then to MLflow, so that no result is lost if the store fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.records import job_records
from runner.records.jobs import Job, lock_job
from runner.tracking import downloaded_jobs, job_runs, pending_runs, tracking_process
from runner.tracking.connection import connect_to_store
from runner.tracking.job_progress import JobProgress
from runner.tracking.stores import EXPERIMENT, Store, create_store_from_config
from runner.tracking.trackers import log_to_trackers
from runner_base import Record, RunnerError, Status, TrackingError, errors, heartbeat, report_step, signals

log = logging.getLogger(__name__)
LEAST_FREE_BYTES = 64 * 1024  # for a job's config, log and record, and a few samples
NEW_DATABASE_BYTES = 2 * 2**20  # MLflow's empty tables in sqlite take half of it


class NotLogged(TrackingError):
    """Raised if MLflow could not store a job's result, which is already on disk."""

    def __init__(self, error: TrackingError, record: Record) -> None:
        super().__init__(error.reason, key=error.key, value=error.value, code=error.code)
        self.record = record


class MlflowSink:
    """Writes one job's record to disk and, unless tracking=none, to an MLflow run.

    A job below a grid's run continues without a store that has become unreachable, and is logged
    later.
    """

    def __init__(
        self, store: Store | None, job: Job, trackers: Sequence[str] = (), project: str = ""
    ) -> None:
        self._store, self._job = store, job
        self._trackers, self._project = trackers, project
        self._run: job_runs.JobRun | tracking_process.ForkedJobRun | None = None
        self._problem: TrackingError | None = None  # why the run could not be started
        self._progress: JobProgress | None = None

    def download_result(self) -> Record | None:
        """Download the job's result if an MLflow server has it. The caller must hold the lock of the job."""
        return None if self._store is None else downloaded_jobs.download_finished_job(self._store, self._job)

    def check_store(self) -> None:
        """Raise TrackingError if the store is unusable. Call this before any file of the job changes."""
        if (store := self._store) is not None:
            with self._deferring_errors_in_grid(store), connect_to_store(store):
                pass

    def start_run(self, record: Record, is_resumed: bool = False, in_background: bool = False) -> None:
        """Start the job's MLflow run, optionally in a background process.

        in_background: the caller has other work before `wait_until_started`, so a fork of this process
        may start the run.
        """
        if (store := self._store) is None:
            return
        self._problem = None
        with self._deferring_errors_in_grid(store):
            with heartbeat.pause_heartbeat():
                if in_background and tracking_process.can_fork_tracking_process(store):
                    self._run = tracking_process.ForkedJobRun(store, self._job, record, is_resumed)
                    return
            with report_step("opening MLflow"):
                self._run = job_runs.start_job_run(store, self._job, record, is_resumed)

    @contextmanager
    def _deferring_errors_in_grid(self, store: Store) -> Iterator[None]:
        """Delay store errors until the job ends, if the job is part of a grid."""
        try:
            yield
        except TrackingError as error:
            if store.parent_run_id is None:
                raise
            self._problem = error

    def wait_until_started(self) -> None:
        """Wait until the MLflow run is started, or raise the store's error."""
        if self._run is not None:
            self._run.wait_until_started()

    def log_progress(self, num_answered: int, num_questions: int, metrics: Mapping[str, float]) -> None:
        """Log a running job's metrics so far. Never waits for the store, and logs few of many calls."""
        if self._run is None or self._store is None or not self._store.progress:
            return
        if self._progress is None:
            self._progress = JobProgress(self._run.send_progress)
        self._progress.add_progress_point(num_answered, num_questions, metrics)

    def finish(self, record: Record) -> None:
        """Write the record to disk, then metrics, artifacts and status to MLflow."""
        # on disk before MLflow has it, so that a kill in between can be repaired
        record.mlflow_run_id = self._run.run_id if self._run is not None else None
        try:
            self._job.write_record(record)
            job_records.delete_or_report_replaced_results(self._job, record)
            if self._trackers and record.status is Status.FINISHED:
                log_to_trackers(self._trackers, record, self._project, self._job.folder)
            if self._problem is not None:
                raise self._problem
            if self._run is not None:
                points = [] if self._progress is None else self._progress.take_unsent_progress_points()
                self._run.log_result(record, points)
        except RunnerError as error:
            record.mlflow_run_id = None
            if not self._job.folder.is_dir():
                self._end_run_of_deleted_job(
                    Status.FAILED if record.status is Status.FINISHED else record.status
                )
            if record.status is Status.FINISHED:
                raise NotLogged(error, record) if isinstance(error, TrackingError) else error from None
            # else it has ended the job itself, or what ended the job says that its folder is gone
            if str(error) not in (record.error or "") and self._job.folder.is_dir():
                log.error("%s", error)  # the error that ended the job is raised, and matters more
            return
        record.mlflow_uri = self._store.redacted_uri if self._store is not None else None
        if record.status is Status.FINISHED:
            self._job.write_record(record)

    def _end_run_of_deleted_job(self, status: Status) -> None:
        """End the MLflow run of a job whose folder was deleted, because no later start of the job would
        find the run.
        """
        try:
            if self._run is not None:
                self._run.end_run_without_record(status)
        except RunnerError as error:
            log.warning("the job's run may still have the status RUNNING in MLflow: %s", error)

    def log_recorded_result_or_raise(self, record: Record) -> Record:
        """Log a recorded result to MLflow, unless MLflow already has it. Raises NotLogged on failure."""
        try:
            self.log_recorded_result(record)
        except TrackingError as error:
            if self._store is None or not was_logged_to(self._store, record):
                raise NotLogged(error, record) from None
            log.warning("%s. The job's result is already logged there", str(error).rstrip("."))
        return record

    def log_recorded_result(self, record: Record) -> bool:
        """Log a recorded result to MLflow, unless MLflow already has it. Returns True if the result was
        logged.
        """
        if (store := self._store) is None:
            return False
        stored = job_runs.end_runs_of_dead_processes(store, self._job)
        run_id = stored.find_run(self._job.job_id, store.parent_run_id)
        if run_id is None and (run_id := stored.find_run_without_parent(self._job.job_id)) is not None:
            job_runs.move_below_parent(store, run_id)
        if run_id is None:
            with signals.defer_signals():
                self._run = job_runs.start_job_run(store, self._job, record, is_resumed=True)
                self.finish(record)
            return True
        record.mlflow_run_id, record.mlflow_uri = run_id, store.redacted_uri
        job_runs.cache_run_id(store, self._job.job_id, run_id)
        if store.traces:
            job_runs.log_missing_traces(store, run_id, record, self._job)
        return False


def create_mlflow_sink(config: RunnerConfig, job: Job) -> MlflowSink:
    """Return the sink for a job. No store is opened yet."""
    store = create_store_from_config(config)
    return MlflowSink(store, job, config.trackers, store.experiment if store else EXPERIMENT)


def require_free_disk_space(config: RunnerConfig) -> None:
    """Raise an error before the job starts if the disk is full."""
    errors.check_free_space("output_dir", Path(config.output_dir).expanduser().absolute(), LEAST_FREE_BYTES)
    store = create_store_from_config(config)
    if store is not None and store.sqlite_file is not None:
        needed = LEAST_FREE_BYTES if store.sqlite_file.exists() else NEW_DATABASE_BYTES
        errors.check_free_space("tracking.uri", store.sqlite_file.absolute().parent, needed)


def record_job_death(config: RunnerConfig, job: Job, task_version: int, status: Status, message: str) -> None:
    try:
        with lock_job(job, should_wait=False):
            record = job.read_last_record()
            if record is None or record.status is not Status.FINISHED:
                dead = job_records.create_job_record(config, job, task_version)
                job.write_record(replace(dead, status=status, error=message))
            pending_runs.end_pending_runs(job.folder / pending_runs.FILE, job.folder.parents[1], status)
    except RunnerError as error:
        # another process has the job, or the store is unreachable: the next start corrects it
        log.warning("%s", error)


def was_logged_to(store: Store, record: Record) -> bool:
    """Return whether the record names this store. Does not query the store."""
    return record.mlflow_uri == store.redacted_uri
