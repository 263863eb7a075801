"""Writes a job's MLflow run in a forked process while the model is loaded, to save time.

Importing and opening MLflow takes as long as loading the model. The fork happens before torch is
imported, and works in parallel with the imports. It receives the record at the job's end, and dies
with this process. Its errors are raised here: those of the start before a long load of the model, or
after a short one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar, NoReturn

from runner.records.jobs import Job
from runner.tracking import job_runs
from runner.tracking.connection import import_mlflow, require_reachable_store
from runner.tracking.job_progress import ProgressPoint
from runner.tracking.stores import Store
from runner_base import (
    Record,
    RunnerError,
    Status,
    TrackingError,
    child_process,
    process_role,
    report_step,
    signals,
)


def can_fork_tracking_process(store: Store) -> bool:
    """Return whether a forked process should write the job's MLflow run.

    The process must be able to write to the store, and the fork must save time.

    A grid's worker writes the runs of many jobs, as does a program that runs a second one: each
    imports MLflow once. Servers report errors that the probe does not find, and a process that has
    threads cannot be forked safely.
    """
    if store.parent_run_id is not None or store.sqlite_file is None or ForkedJobRun.made:
        return False
    return sys.platform == "linux" and "mlflow" not in sys.modules and _count_threads() == 1


def _count_threads() -> int:
    """Return the number of threads of this process, including those of C libraries."""
    with suppress(OSError):
        return len(list(Path("/proc/self/task").iterdir()))
    return threading.active_count() + 1  # there may be others


class ForkedJobRun:
    """MLflow run of a job that a forked process writes in parallel. Has the interface of
    `job_runs.JobRun`.
    """

    made: ClassVar[int] = 0  # in this process

    def __init__(self, store: Store, job: Job, record: Record, is_resumed: bool) -> None:
        with require_reachable_store(store):
            pass
        ForkedJobRun.made += 1
        self._shown, self._job, self._run_id = store.redacted_uri, job, ""
        self._problem: BaseException | None = None
        self._pipe, end = Pipe()
        this = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)  # until the copy ignores them
        try:
            self._process = os.fork()
            if not self._process:
                _run_tracking_process(end, this, store, job, record, is_resumed)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        end.close()

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run. None if the run could not be started."""
        with suppress(RunnerError):
            self.wait_until_started()
        return self._run_id or None

    def wait_until_started(self) -> None:
        """Wait until the MLflow run is started, or raise the store's error."""
        if not self._run_id:
            with report_step("opening MLflow"):
                self._run_id = self._receive_tracking_reply()

    def send_progress(self, points: Sequence[ProgressPoint]) -> bool:
        """Send points to the forked process. Returns False if this would block."""
        with suppress(OSError):  # the forked process has died: the job's end reports it
            writable = select.poll()
            writable.register(self._pipe, select.POLLOUT)
            if not writable.poll(0):
                return False
            self._pipe.send([*points])
        return True

    def log_result(self, record: Record, progress: Sequence[ProgressPoint] = ()) -> None:
        """Log metrics, artifacts and status, like `JobRun.log_result`."""
        self._send_job_outcome_and_wait((record, progress))

    def end_run_without_record(self, status: Status) -> None:
        self._send_job_outcome_and_wait(status)

    def _send_job_outcome_and_wait(self, outcome: tuple[Record, Sequence[ProgressPoint]] | Status) -> None:
        self.wait_until_started()
        with suppress(BrokenPipeError):  # the copy has died: the missing answer says it
            self._pipe.send(outcome)
        self._receive_tracking_reply()
        self._wait_for_exit()

    def _receive_tracking_reply(self) -> str:
        """Return the forked process's reply, or raise the error that the process sent.

        Later calls give the same result.
        """
        if self._problem is None:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError):
                answer = None
            except BaseException:  # a second signal: nobody waits for the run any more
                os.kill(self._process, signal.SIGKILL)
                raise
            if isinstance(answer, str):
                return answer
            self._problem = answer or self._death_error(
                child_process.describe_exit_code(self._wait_for_exit())
            )
            if answer is not None:
                self._wait_for_exit()
        raise self._problem

    def _death_error(self, exit_description: str) -> TrackingError:
        return TrackingError(
            (
                f"the result was not logged to MLflow at {self._shown}, because the logging process "
                f"{exit_description}. It is saved in {self._job.folder}. To log it, run the same "
                "command again"
            ),
            code="failed",
        )

    def _wait_for_exit(self) -> int:
        """Wait until the forked process has ended, because that process also holds the job's lock."""
        self._pipe.close()
        _, status = os.waitpid(self._process, 0)
        return os.waitstatus_to_exitcode(status)


def _run_tracking_process(
    connection: Connection, parent_pid: int, store: Store, job: Job, record: Record, is_resumed: bool
) -> NoReturn:
    """Write the MLflow run in the forked process, then exit without returning to the caller."""
    code = 1
    try:
        for number in signals.ENDING:
            signal.signal(number, signal.SIG_IGN)  # the parent says how the job ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        child_process.request_kill_when_parent_dies(parent_pid)
        process_role.mark_as_command()
        import_mlflow(store)
        run = job_runs.start_job_run(store, job, record, is_resumed)
        connection.send(run.run_id)
        while isinstance(outcome := connection.recv(), list):
            run.log_progress(outcome)
        if isinstance(outcome, Status):
            run.end_run_without_record(outcome)
        else:
            run.log_result(*outcome)
        connection.send("finished")
        code = 0
    except EOFError:
        pass  # the parent has ended without a record: the next start ends the run
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        error.add_note(traceback.format_exc())
        with suppress(OSError):
            connection.send(error)
    finally:
        os._exit(code)  # not the parent's cleanup
