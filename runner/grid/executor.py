"""Base class for running planned jobs: start order, outcomes, timeouts and Ctrl-C.

workers.py runs the jobs in processes of this machine, and ray_grid.py on the nodes of a
cluster.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

from runner.grid.live_view import GridView
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob
from runner_base import signals

GRACE_S = 30.0  # how long jobs may take to end after Ctrl-C, before they are killed


@dataclass(kw_only=True)
class Executor(ABC):
    """Runs the jobs of a plan and shows their progress."""

    plan: list[PlannedJob]
    numbers: list[int]  # the jobs of the plan that have to run
    view: GridView
    outcomes: dict[int, JobOutcome] = field(default_factory=dict)
    job_timeout_s: float | None = None
    stop_requests: int = 0  # how often the user has asked to stop
    _stopped_at: float = 0.0

    def run(self) -> bool:
        """Run all jobs and store each job's result in `outcomes`. Returns True if the user stopped the jobs.

        The first signal lets the jobs record their progress, the second one kills them.
        """
        is_cancelled = False
        with signals.redirect_signals(self._count_signal):
            try:
                is_going_on = True
                while is_going_on:
                    if not self.stop_requests:
                        self.submit()
                    elif not is_cancelled:
                        is_cancelled = True
                        self.cancel()
                    if self.stop_requests > 1 or (
                        self.stop_requests and time.monotonic() - self._stopped_at > GRACE_S
                    ):
                        self.kill()
                    is_going_on = self.poll()
                    self.view.refresh()
            finally:
                self.close()
        return self.stop_requests > 0

    @abstractmethod
    def submit(self) -> None:
        """Start every job that is ready to run."""

    @abstractmethod
    def poll(self) -> bool:
        """Process messages of running jobs for a short time. Returns False once all jobs have ended."""

    @abstractmethod
    def cancel(self) -> None:
        """Interrupt all jobs like Ctrl-C does, so that each job records its progress."""

    @abstractmethod
    def kill(self) -> None:
        """Kill all jobs at once and record them as killed."""

    def close(self) -> None:  # noqa: B027
        """Release all resources at the end of a run, even after an error."""

    def is_waiting_for_job(self, number: int) -> bool:
        return any(
            other not in self.outcomes
            for other in self._group_job_numbers_by_id.get(self.plan[number].after, ())
        )

    def record_outcome(self, number: int, outcome: JobOutcome) -> None:
        self.outcomes[number] = outcome
        self.view.report_ended_job(number, outcome)

    def has_timed_out(self, started_at: float) -> bool:
        """Return whether a job has run longer than job_timeout_s. `started_at` is a time.monotonic()
        value.
        """
        return self.job_timeout_s is not None and time.monotonic() - started_at > self.job_timeout_s

    @property
    def timeout_message(self) -> str:
        return f"still running after job_timeout_s={self.job_timeout_s:g}"

    @cached_property
    def _group_job_numbers_by_id(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number in self.numbers:
            found.setdefault(self.plan[number].job_id, []).append(number)
        return found

    def _count_signal(self) -> None:
        self.stop_requests += 1
        self._stopped_at = time.monotonic()
