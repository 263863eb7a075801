"""A job's run in MLflow, written by a copy of this process: importing and opening MLflow takes as
long as the model.

The copy is made before torch is imported, and works beside the imports. It gets the record at the
job's end, and dies with this process. Its errors are raised here: those of the start before the
model is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar, NoReturn

from runner.core.later import put_off
from runner.records.jobs import Job
from runner.tracking import job_runs
from runner.tracking.connection import import_mlflow, reachable
from runner.tracking.stores import Store
from runner_base import Record, RunnerError, Status, TrackingError, child, doing, signals

# What MLflow imports and a job's run needs seldom or never: a fifth of the time that its modules
# take.
UNUSED = ("fastapi", "mlflow.genai", "mlflow.models", "scipy")


def is_possible(store: Store) -> bool:
    """Return whether a copy of this process can write to a store, and saves time.

    A grid's worker writes the runs of many jobs, as does a program that runs a second one: each
    imports MLflow once. Servers report errors that the probe does not find, and a process that has
    threads cannot be copied safely.
    """
    if store.parent_run_id is not None or store.file is None or ForkedJobRun.made:
        return False
    return sys.platform == "linux" and "mlflow" not in sys.modules and _threads() == 1


def _threads() -> int:
    """Return how many threads this process has, those of libraries in C among them."""
    with suppress(OSError):
        return len(list(Path("/proc/self/task").iterdir()))
    return threading.active_count() + 1  # there may be others


class ForkedJobRun:
    """One job's run in MLflow, as `job_runs.JobRun`, whose start goes on beside what the caller
    does."""

    made: ClassVar[int] = 0  # in this process

    def __init__(self, store: Store, job: Job, record: Record, goes_on: bool) -> None:
        with reachable(store):
            pass
        ForkedJobRun.made += 1
        self._shown, self._job, self._run_id = store.shown, job, ""
        self._problem: BaseException | None = None
        self._pipe, end = Pipe()
        this = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)  # until the copy ignores them
        try:
            self._process = os.fork()
            if not self._process:
                _write(end, this, store, job, record, goes_on)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        end.close()

    @property
    def run_id(self) -> str | None:
        """The id of the run; None if it could not be started, which `wait` and `finish` raise."""
        with suppress(RunnerError):
            self.wait()
        return self._run_id or None

    def wait(self) -> None:
        """Wait until the run is started; raise the store's error."""
        if not self._run_id:
            with doing("opening MLflow"):
                self._run_id = self._answer()

    def finish(self, record: Record) -> None:
        """Log metrics, evidence and status, as `JobRun.finish`."""
        self._send(record)

    def end(self, status: Status) -> None:
        """End the run without a record, as `JobRun.end`."""
        self._send(status)

    def _send(self, outcome: Record | Status) -> None:
        self.wait()
        with suppress(BrokenPipeError):  # the copy has died: the missing answer says it
            self._pipe.send(outcome)
        self._answer()
        self._end()

    def _answer(self) -> str:
        """Return what the copy answers, or raise its error, each time."""
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
            self._problem = answer or self._died(child.describe_exit(self._end()))
            if answer is not None:
                self._end()
        raise self._problem

    def _died(self, how: str) -> TrackingError:
        return TrackingError(
            f"MLflow at {self._shown} cannot be written: the process that writes to it {how}. "
            f"The result is kept in {self._job.folder}; the same command logs it without running it again",
            code="failed",
        )

    def _end(self) -> int:
        """Wait until the copy has ended: until then it holds the job's lock, too."""
        self._pipe.close()
        _, status = os.waitpid(self._process, 0)
        return os.waitstatus_to_exitcode(status)


def _write(pipe: Connection, parent: int, store: Store, job: Job, record: Record, goes_on: bool) -> NoReturn:
    """Write the run, in the copy, which never returns to what this process was doing."""
    code = 1
    try:
        for number in signals.ENDING:
            signal.signal(number, signal.SIG_IGN)  # the parent says how the job ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        child.end_with_parent(parent)
        with put_off(*UNUSED):
            import_mlflow(store)
        run = job_runs.start(store, job, record, goes_on)
        pipe.send(run.run_id)
        outcome = pipe.recv()
        if isinstance(outcome, Status):
            run.end(outcome)
        else:
            run.finish(outcome)
        pipe.send("finished")
        code = 0
    except EOFError:
        pass  # the parent has ended without a record: the next start ends the run
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        error.add_note(traceback.format_exc())
        with suppress(OSError):
            pipe.send(error)
    finally:
        os._exit(code)  # not the parent's cleanup
