"""Runs a job in a copy of this process, which has imported the libraries but loaded and computed
nothing.

The memory of each job is its own, as in a new process, and the seconds that the imports take are
spent once. CUDA does not work in a copy, and other systems than Linux copy processes less reliably:
there each job starts a new process.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from runner.config.resolved import resolve
from runner.config.root import RunnerConfig
from runner.engines.kinds import kind_of
from runner.tasks.base import Uses, task_of
from runner.tracking import connection, stores
from runner_base import child, signals

FORKS = "forks"  # the argument of a worker whose jobs run in copies of it


def is_possible(gpus: int) -> bool:
    """Return whether jobs can run in copies of a process on this machine."""
    return sys.platform == "linux" and not gpus


def run_in_copy(config: RunnerConfig, job: Callable[[], None]) -> bool:
    """Run a job in a copy of this process, and wait for it; return True in the copy.

    If the copy dies, this process ends in the same way: the parent of both sees how the job ended.
    """
    import_libraries(config)
    gc.collect()
    gc.freeze()  # what is imported stays: no copy has to look through it again
    # until each process knows what a signal means for it
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
    this = os.getpid()
    copy = os.fork()
    if not copy:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        child.end_with_parent(this)
        job()
        return True
    with signals.redirected_to(lambda: _stop(copy)):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        _, status = os.waitpid(copy, 0)
    end_as(status)
    return False


def import_libraries(config: RunnerConfig) -> None:
    """Import what the job needs; the job itself reports a library that is missing or does not
    work."""
    with suppress(Exception):
        if (store := stores.store_of(config)) is not None:
            connection.import_mlflow(store)
        if Uses.engine in task_of(config).USES:
            kind_of(config.model).import_libraries(resolve(config))


def end_as(status: int) -> None:
    """End this process as another one ended, by its status from `waitpid`; nothing happens if all
    went well."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif code := os.WEXITSTATUS(status):
        sys.stdout.flush()
        os._exit(code)


def _stop(process: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(process, signal.SIGTERM)
