"""Runs jobs in forks of a process that has imported the libraries but loaded no model.

Each fork has its own memory, like a new process, but the imports cost time only once. CUDA does
not work in a fork, and other systems than Linux fork less reliably: there each job starts a new
process.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.tasks.base import Uses, import_task_module
from runner.tracking import connection, stores
from runner_base import child_process, signals

FORKS = "forks"  # the argument of a worker whose jobs run in copies of it


def can_fork(num_gpus: int) -> bool:
    """Return whether jobs can run in forks of a process, which requires Linux without GPUs."""
    return sys.platform == "linux" and not num_gpus


def run_in_fork(config: RunnerConfig, run_job: Callable[[], None]) -> bool:
    """Run a job in a forked child process, and wait until the child ends.

    Returns True in the child and False in the parent.

    If the child dies, this process ends with the same signal or exit code, so that the parent of
    both sees how the job ended.
    """
    freeze_imported_libraries(config)
    # until each process knows what a signal means for it
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
    this = os.getpid()
    copy = os.fork()
    if not copy:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        child_process.request_kill_when_parent_dies(this)
        run_job()
        return True
    with signals.redirect_signals(lambda: _terminate_process(copy)):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        _, status = os.waitpid(copy, 0)
    exit_with_child_status(status)
    return False


def freeze_imported_libraries(config: RunnerConfig) -> None:
    """Import the libraries that a job needs, and exclude their objects from garbage collection.

    Each job collects garbage before it measures memory. Without MLflow's and torch's objects that takes
    milliseconds instead of 0.2 s. No model may be loaded yet. Import errors are ignored, because the job
    itself reports them.
    """
    with suppress(Exception), signals.defer_signals_until_step_ends():
        if (store := stores.create_store_from_config(config)) is not None:
            connection.import_mlflow(store)
        if Uses.engine in import_task_module(config).USES:
            get_model_kind(config.model).import_libraries(resolve_job(config))
    gc.collect()
    gc.freeze()


def exit_with_child_status(wait_status: int) -> None:
    """End this process with the signal or exit code of its child, unless the exit code is 0."""
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif code := os.WEXITSTATUS(wait_status):
        sys.stdout.flush()
        os._exit(code)


def _terminate_process(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
