"""Running the jobs of a plan, wherever: which may start, how each ended, how long each may take,
what Ctrl-C means.

workers.py runs them in processes of this machine, and ray_grid.py on the nodes of a cluster.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

from runner.grid.live_view import GridView
from runner.grid.outcomes import Outcome
from runner.grid.plan import PlannedJob
from runner_base import signals

GRACE_S = 30.0  # how long jobs may take to end after Ctrl-C, before they are killed


@dataclass(kw_only=True)
class Executor(ABC):
    """Runs jobs of a plan, and shows them as they run."""

    plan: list[PlannedJob]
    numbers: list[int]  # the jobs of the plan that have to run
    view: GridView
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    job_timeout_s: float | None = None
    stop_requests: int = 0  # how often the user has asked to stop
    _stopped_at: float = 0.0

    def run(self) -> bool:
        """Run all jobs, until the user stops them; return whether the user did. `outcomes` says how
        each ended.

        The first signal lets the jobs record what they have, the second one kills them.
        """
        is_cancelled = False
        with signals.redirected_to(self._count_signal):
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
                    self.view.tick()
            finally:
                self.close()
        return self.stop_requests > 0

    @abstractmethod
    def submit(self) -> None:
        """Start the jobs that may start now."""

    @abstractmethod
    def poll(self) -> bool:
        """Take the news of the jobs, for a moment; return whether there is anything left to wait
        for."""

    @abstractmethod
    def cancel(self) -> None:
        """End all jobs as Ctrl-C does."""

    @abstractmethod
    def kill(self) -> None:
        """End all jobs at once, and record their deaths."""

    def close(self) -> None:  # noqa: B027
        """Free what is left when the run ends in any way."""

    def waits(self, number: int) -> bool:
        """Whether a job needs another one that has not ended."""
        return any(other not in self.outcomes for other in self._numbers_of.get(self.plan[number].after, ()))

    def record(self, number: int, outcome: Outcome) -> None:
        """Record how a job ended, and show it."""
        self.outcomes[number] = outcome
        self.view.ended(number, outcome)

    def is_late(self, since: float) -> bool:
        """Whether a job that started then has taken longer than it may."""
        return self.job_timeout_s is not None and time.monotonic() - since > self.job_timeout_s

    @property
    def why_late(self) -> str:
        """Why a late job was ended."""
        return f"still running after job_timeout_s={self.job_timeout_s:g}"

    @cached_property
    def _numbers_of(self) -> dict[str, list[int]]:
        """Return the jobs to do by their ids."""
        found: dict[str, list[int]] = {}
        for number in self.numbers:
            found.setdefault(self.plan[number].job_id, []).append(number)
        return found

    def _count_signal(self) -> None:
        self.stop_requests += 1
        self._stopped_at = time.monotonic()
