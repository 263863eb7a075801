"""State of a grid's workers in the main process, such as assigned jobs and GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from runner.grid.gpu_sets import GpuSet
from runner_base import ProgressState


@dataclass
class Worker:
    """A worker process with its current job and its remaining jobs."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    todo: deque[int]
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
        with suppress(ProcessLookupError):  # it has ended already
            os.killpg(self.process.pid, signal.SIGKILL)
