"""A worker process: does one job after another for a grid, and keeps the loaded base between them.

Started by `runner/grid/workers.py`. It never outlives its parent. A crash, a kill or a hang ends one job, not the grid.
"""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from runner.config.root import RunnerConfig
from runner.core import child, progress
from runner.core.progress import Step
from runner.core.result import Status
from runner.engines.kinds import BaseCache
from runner.grid.outcome import Outcome, run_job


@dataclass(frozen=True)
class Assignment:
    """One job for a worker."""

    number: int
    config: RunnerConfig
    config_yaml: str
    wait: bool  # for another process that is doing the same job


@dataclass(frozen=True)
class Progressed:
    """A step of the job that the worker is doing."""

    number: int
    step: Step


@dataclass(frozen=True)
class Ended:
    """The job is over."""

    number: int
    outcome: Outcome


def main() -> None:
    """Do the jobs that the parent sends, until it sends None or closes the connection."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    child.end_with_parent(parent)
    # the terminal's Ctrl-C reaches the parent only, which sends SIGINT when a job is to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("runner").setLevel(logging.INFO)
    bases = BaseCache()
    with Connection(descriptor) as connection:
        try:
            while (assignment := connection.recv()) is not None:
                run_assignment(assignment, connection, bases)
        except (EOFError, OSError, KeyboardInterrupt):
            return  # the parent is gone, or has asked this worker to stop


def run_assignment(assignment: Assignment, connection: Connection, bases: BaseCache) -> None:
    """Do one job and send how it ended; Ctrl-C ends the job as KILLED, and then the worker."""
    number = assignment.number

    def report(step: Step) -> None:
        try:
            connection.send(Progressed(number, step))
        except OSError:  # the parent is gone: the job itself has not failed
            raise KeyboardInterrupt from None

    progress.report_to(report)
    try:
        outcome = run_job(assignment.config, assignment.config_yaml, bases, assignment.wait)
    except KeyboardInterrupt:
        connection.send(Ended(number, Outcome(Status.KILLED, message="interrupted", exit_code=130)))
        raise
    except SystemExit as error:
        message = f"the job called sys.exit({error.code!r})"
        outcome = Outcome(Status.FAILED, message=message, exit_code=1)
    finally:
        progress.report_to(None)
    connection.send(Ended(number, outcome))
