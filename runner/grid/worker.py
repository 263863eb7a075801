"""A worker process: runs one job after another for a grid, and keeps the loaded base between them.

`runner/grid/workers.py` starts it and sends it jobs: the config, its YAML, and whether to wait for
another process that is doing the same job. The worker sends back progress and outcome of each job.
It never outlives its parent. A crash, a kill or a hang ends one job, not the grid.
"""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection

from runner.config.root import RunnerConfig
from runner.grid.forking import FORKS, run_in_copy
from runner.grid.outcomes import Outcome, run_job
from runner_base import INTERRUPTED, ProgressState, Status, child, progress, signals
from runner_base.console import ForPeople, keep_streams
from runner_base.loggers import log_progress
from runner_engine import BaseCache
from runner_engine.devices import gpu


def main() -> None:
    """Run the jobs that the parent sends, until it sends None or closes the connection."""
    descriptor, parent, forks = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == FORKS
    child.end_with_parent(parent)
    keep_streams()
    # the terminal's Ctrl-C reaches the parent only, which sends SIGTERM when a job is to stop
    signals.install_handlers(even_ignored=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(ForPeople())
    log_progress()
    bases = BaseCache()
    with Connection(descriptor) as connection:
        try:
            while (assignment := connection.recv()) is not None:
                if not forks:
                    do_job(connection, bases, *assignment)
                elif run_in_copy(assignment[0], lambda: do_job(connection, BaseCache(), *assignment)):
                    return  # this is the copy, and its job has ended
        except (EOFError, OSError, KeyboardInterrupt):
            return  # the parent is gone, or wants this worker to stop
        finally:
            bases.clear()


def do_job(
    connection: Connection, bases: BaseCache, config: RunnerConfig, config_yaml: str, wait: bool
) -> None:
    """Run one job and send its outcome; Ctrl-C ends the job as KILLED, and then the worker."""

    def report(step: ProgressState) -> None:
        try:
            connection.send(step)
        except OSError:  # the parent is gone: that is no failure of the job
            raise KeyboardInterrupt from None

    progress.report_to(report)
    try:
        outcome = run_job(config, config_yaml, bases, wait)
    except KeyboardInterrupt as stop:
        connection.send(
            Outcome(Status.KILLED, message=signals.interruption_text(stop), exit_code=INTERRUPTED)
        )
        raise
    finally:
        progress.report_to(None)
    outcome.lost_gpu = outcome.lost_gpu or gpu.why_lost()  # the grid then ends this worker
    connection.send(outcome)
