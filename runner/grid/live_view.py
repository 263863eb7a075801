"""The progress of a grid on stderr: a live view on a terminal, plain lines elsewhere, at least one every 10 s."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from runner.grid.outcomes import Outcome
from runner.report import brief
from runner_base import ProgressState, Status, clock, doing, say
from runner_base.console import console

REDRAW_EVERY_S = 0.25
SHOWN = 4  # running jobs in lines


@dataclass
class GridView:
    """Shows the progress of a grid; a failure is printed when it happens."""

    labels: list[str]  # of all jobs of the plan
    to_do: int
    # jobs that were done when the grid was planned, e.g. to deliver their files
    known: frozenset[int] = frozenset()
    # None: it has not begun to work
    running: dict[int, ProgressState | None] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    began: float = field(default_factory=time.monotonic)
    _live: Any = None
    _entered: ExitStack = field(default_factory=ExitStack)
    _drawn_at: float = 0.0

    def __enter__(self) -> GridView:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console(sys.stderr), transient=True, auto_refresh=False)
            self._live.start()
        # the live view draws itself
        self._entered.enter_context(doing(None if self._live is not None else self.lines))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        if self._live is not None:
            self._live.stop()

    def lines(self) -> str:
        """Return what the live view shows, in lines."""
        passed = clock(time.monotonic() - self.began)
        failed = f", {self.failed} failed" if self.failed else ""
        running = sorted(self.running.items())
        lines = [f"{self.done} of {self.to_do} jobs done{failed}, {passed} passed"]
        for number, job in running[:SHOWN]:
            cells = "starting" if job is None else " ".join([job.what, ", ".join(job.cells())])
            lines.append(f"    {self.labels[number]}: {cells}")
        lines += [f"    and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
        return "\n".join(lines)

    def started(self, number: int) -> None:
        """Record that a worker has started a job."""
        self.running[number] = None

    def progressed(self, number: int, step: ProgressState) -> None:
        """Record a job's progress."""
        if number in self.running:
            self.running[number] = step

    def repeats(self, number: int, why: str) -> None:
        """Print that a job is repeated, and why."""
        self.running.pop(number, None)
        line = f"REPEATED {self.labels[number]}: {why}"
        if self._live is None:
            say(line)
        else:
            self._live.console.print(line)

    def ended(self, number: int, outcome: Outcome) -> None:
        """Record that a job has ended, and print one line that says how."""
        self.running.pop(number, None)
        failed = outcome.status is not Status.FINISHED
        self.done += 1
        self.failed += failed
        at = f"[{self.done}/{self.to_do}]"
        if outcome.record is not None and not failed:
            when = "before" if number in self.known else "meanwhile"
            recorded = f", recorded {when}" if outcome.record.from_ledger else ""
            line = f"{at} {self.labels[number]}: {brief(outcome.record)}{recorded}"
            line += f"\n    note: {outcome.message}" if outcome.message else ""
        else:  # no metrics: those of a job with errors would count unanswered questions as wrong
            line = f"{at} {outcome.status.value} {self.labels[number]}: {outcome.message}"
        line += f"\n    note: {outcome.note}" if outcome.note else ""
        if self._live is None:
            say(line)
        else:
            self._live.console.print(line, style="red" if failed else "")
        self.tick(at_once=True)

    def tick(self, at_once: bool = False) -> None:
        """Redraw the live view, if there is one and the last picture is old enough."""
        now = time.monotonic()
        if self._live is not None and (at_once or now - self._drawn_at >= REDRAW_EVERY_S):
            self._drawn_at = now
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 2))
        for number, job in sorted(self.running.items()):
            rows.add_row("·", self.labels[number], *_progress_cells(job))
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{self.done}/{self.to_do} jobs", style="bold"),
            ProgressBar(total=max(self.to_do, 1), completed=self.done, width=32),
            Text(f"{clock(time.monotonic() - self.began)} passed"),
            Text(f"{self.failed} failed" if self.failed else "", style="red"),
        )
        return Group(head, rows)


def _progress_cells(step: ProgressState | None) -> list[str]:
    if step is None:
        return ["starting"]
    news = "  ".join(f"{key} {value}" for key, value in step.news.items())
    total = f"{step.done:,.0f}/{step.total:,.0f}" if step.total else ""
    return [
        step.what,
        total,
        news,
        f"{step.rss_mib:,.0f} MiB",
        f"{clock(step.left_s)} left" if step.left_s else "",
    ]
