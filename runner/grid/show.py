"""What a user sees while a grid runs: one live view on a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runner.core.progress import Step
from runner.core.result import Status
from runner.grid.outcome import Outcome
from runner.grid.plan import Planned, State, counts
from runner.report import brief

REDRAW_EVERY_S = 0.25


@dataclass
class Running:
    """A job that a worker is doing."""

    step: Step | None = None
    moved_at: float = 0.0  # when the first piece of work was done; the time before was loading
    moved_from: float = 0.0

    def move(self, step: Step) -> None:
        """Note how far the job is."""
        self.step = step
        if step.done and not self.moved_at:
            self.moved_at, self.moved_from = time.monotonic(), step.done

    def eta_s(self) -> float | None:
        """Guess the seconds left from the speed so far; None before there is one."""
        if self.step is None or not self.step.total or self.step.done <= self.moved_from:
            return None
        speed = (self.step.done - self.moved_from) / (time.monotonic() - self.moved_at)
        return (self.step.total - self.step.done) / speed


@dataclass
class View:
    """Follows a grid and draws it; a failure is printed when it happens."""

    plan: list[Planned]
    to_do: int
    label: Callable[[int], str]
    running: dict[int, Running] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0
    began: float = field(default_factory=time.monotonic)
    _live: Any = None
    _drawn_at: float = 0.0

    def __enter__(self) -> View:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, number: int) -> None:
        """A worker has begun a job."""
        self.running[number] = Running()

    def progressed(self, number: int, step: Step) -> None:
        """A job has come further."""
        if number in self.running:
            self.running[number].move(step)

    def ended(self, number: int, outcome: Outcome) -> None:
        """A job is over: print one line that says how it ended."""
        self.running.pop(number, None)
        failed = outcome.status is not Status.FINISHED
        self.failed += failed
        self.finished += not failed
        at = f"[{self.finished + self.failed}/{self.to_do}]"
        if outcome.record is not None:
            earlier = ", recorded meanwhile" if outcome.record.from_ledger else ""
            line = f"{at} {self.label(number)}: {brief(outcome.record)}{earlier}"
            line += f"\n    note: {outcome.message}" if outcome.message else ""
        else:
            line = f"{at} {outcome.status.value} {self.label(number)}: {outcome.message}"
        self._print(line, "red" if failed else "")
        self.tick(at_once=True)

    def tick(self, at_once: bool = False) -> None:
        """Draw, when there is a terminal and the last picture is old enough."""
        now = time.monotonic()
        if self._live is not None and (at_once or now - self._drawn_at >= REDRAW_EVERY_S):
            self._drawn_at = now
            self._live.update(self._picture(), refresh=True)

    def _print(self, line: str, style: str) -> None:
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
        else:
            from rich.text import Text

            self._live.console.print(Text(line, style=style))

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = self.finished + self.failed
        rows = Table.grid(padding=(0, 2))
        for number, job in sorted(self.running.items()):
            rows.add_row(*self._row(number, job))
        head = Table.grid(padding=(0, 2))
        failures = f"{self.failed} failed" if self.failed else ""
        passed = clock(time.monotonic() - self.began)
        head.add_row(
            Text(f"{done}/{self.to_do} jobs", style="bold"),
            ProgressBar(total=max(self.to_do, 1), completed=done, width=32),
            Text(f"{passed} passed"),
            Text(failures, style="red"),
        )
        return Group(head, rows)

    def _row(self, number: int, job: Running) -> list[str]:
        step = job.step
        if step is None:
            return ["·", self.label(number), "starting", "", "", "", ""]
        eta_s = job.eta_s()
        news = "  ".join(f"{key} {value}" for key, value in step.news.items())
        total = f"{step.done:,.0f}/{step.total:,.0f}" if step.total else ""
        left = f"{clock(eta_s)} left" if eta_s else ""
        return ["·", self.label(number), step.what, total, news, f"{step.rss_mib:,.0f} MiB", left]


def clock(seconds: float) -> str:
    """Write seconds as people read them: 7 s, 3:20, 1:02:03."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary(plan: list[Planned]) -> str:
    """Count a plan in one line."""
    totals = counts(plan)
    twins = sum(planned.same_as is not None for planned in plan)
    parts = [f"{totals[state]} {state}" for state in State if totals[state]]
    return f"{len(plan)} jobs: {', '.join(parts)}" + (f" ({twins} stand here twice, done once)" if twins else "")
