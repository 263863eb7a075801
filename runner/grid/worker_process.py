"""State of a grid's workers in the main process, such as assigned jobs and GPUs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from runner.grid.forking import FORKS
from runner.grid.gpu_sets import GpuSet
from runner_base import ProgressState, child_process

# a fork ends as its worker does, and the next job waits for its end
START = (
    "from runner.grid.worker import main; from runner_base.entry import exit_without_teardown; "
    "main(); exit_without_teardown(0)"
)


@dataclass
class Worker:
    """A worker process with its current job and its remaining jobs."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    todo: deque[int] = field(default_factory=deque)
    gpus: GpuSet = field(default_factory=GpuSet)
    jobs_given: int = 0  # how many jobs it has got so far
    current: int | None = None  # the number of its job
    since: float = 0.0  # when it got its job, or was released
    log_from: int = 0  # where the output of its job begins in the log
    load_s: float = 0.0  # how long its present base took to load; 0 until that is known
    work_from_s: float = 0.0  # when the work of its job began, after the load; 0 until then
    left_s: float = 0.0  # of its current job
    s_per_cost: float = 0.0  # how long its jobs work, by their rough sizes

    def start_job(self, number: int) -> None:
        """Record that the worker starts a job, and reset its timers."""
        self.current, self.since, self.log_from = number, time.monotonic(), self.log.stat().st_size
        self.jobs_given += 1
        self.work_from_s = self.left_s = 0.0

    def update_job_time_estimates(self, progress: ProgressState, job_cost: float) -> None:
        if progress.left_s is None:
            return
        passed_s, self.left_s = time.monotonic() - self.since, progress.left_s
        self.work_from_s = self.work_from_s or passed_s
        self.load_s = self.load_s or passed_s
        self.s_per_cost = (passed_s - self.work_from_s + progress.left_s) / max(job_cost, 1.0)

    def kill(self) -> None:
        """Kill the worker and all its child processes."""
        with suppress(ProcessLookupError):  # it has ended already, or has no group yet
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()


def start_worker_process(
    log_folder: Path, number: int, gpus: GpuSet | None = None, uses_forks: bool = False
) -> Worker:
    """Start a worker process that waits for jobs. Its output goes to a log file in the folder."""
    parent_end, worker_end = socket.socketpair()
    log_folder.mkdir(parents=True, exist_ok=True)
    log, gpus = log_folder / f"worker_{number}.log", gpus or GpuSet()
    with worker_end, log.open("ab") as stream:
        process = child_process.start_python_child_process(
            *("-c", START, str(worker_end.fileno()), str(os.getpid()), FORKS if uses_forks else "stays"),
            environment=gpus.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=[worker_end.fileno()],
            start_new_session=True,  # the terminal's Ctrl-C then reaches only this process, which passes it on
        )
    return Worker(process, Connection(parent_end.detach()), log, gpus=gpus)
