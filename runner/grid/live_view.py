"""Shows a grid's progress on stderr: live in a terminal, otherwise a line at least every 10 s."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from runner.grid.outcomes import JobOutcome
from runner.render import grid_lines
from runner.report import format_job_table_cells
from runner_base import ProgressState, Status, format_duration, print_message, report_step
from runner_base.console import create_console

REDRAW_EVERY_S = 0.25
SHOWN = 4  # running jobs in lines
LABEL_WIDTH = 48  # longer labels do not align the others


@dataclass
class GridView:
    """Shows the progress of a grid, and prints each failure at once."""

    labels: list[str]  # of all jobs of the plan
    to_do: int
    # jobs that were done when the grid was planned, e.g. to deliver their files
    known: frozenset[int] = frozenset()
    # None: it has not begun to work
    running: dict[int, ProgressState | None] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    began: float = field(default_factory=time.monotonic)
    numbers: list[int] = field(default_factory=list)  # the jobs that run; empty: all
    _live: Any = None
    _entered: ExitStack = field(default_factory=ExitStack)
    _drawn_at: float = 0.0

    def __enter__(self) -> GridView:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=create_console(sys.stderr), transient=True, auto_refresh=False)
            self._live.start()
        # the live view draws itself
        self._entered.enter_context(report_step(None if self._live is not None else self.format_status_lines))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        if self._live is not None:
            self._live.stop()

    def format_status_lines(self) -> str:
        head = grid_lines.format_job_counts(self.done, self.to_do, self.failed)
        running = [
            (self.labels[number], grid_lines.format_job_progress(job))
            for number, job in sorted(self.running.items())
        ]
        return grid_lines.format_grid_progress(head, running, SHOWN)

    @property
    def _label_width(self) -> int:
        widths = [len(self.labels[number]) for number in self.numbers or range(len(self.labels))]
        return max((width for width in widths if width <= LABEL_WIDTH), default=0)

    def mark_started(self, number: int) -> None:
        self.running[number] = None

    def update_progress(self, number: int, state: ProgressState) -> None:
        if number in self.running:
            self.running[number] = state

    def report_restarted_job(self, job_number: int, reason: str) -> None:
        self.running.pop(job_number, None)
        line = f"REPEATED {self.labels[job_number]}: {reason}"
        if self._live is None:
            print_message(line)
        else:
            self._live.console.print(line)

    def report_ended_job(self, job_number: int, outcome: JobOutcome) -> None:
        """Record that a job has ended, and print a line with its status."""
        self.running.pop(job_number, None)
        failed = outcome.status is not Status.FINISHED
        self.done += 1
        self.failed += failed
        at = f"[{self.done}/{self.to_do}]".ljust(len(f"[{self.to_do}/{self.to_do}]"))
        if outcome.record is not None and not failed:
            before = job_number in self.known
            when = grid_lines.RECORDED_BEFORE if before else grid_lines.RECORDED_MEANWHILE
            recorded = when if outcome.record.from_ledger else ""
            cells = format_job_table_cells(outcome.record)
            line = grid_lines.format_ended_job_line(
                at, self.labels[job_number], self._label_width, cells, recorded
            )
            line += f"\n    note: {outcome.message}" if outcome.message else ""
        else:  # no metrics: those of a job with errors would count unanswered questions as wrong
            line = f"{at} {outcome.status.value} {self.labels[job_number]}: {outcome.message}"
        line += f"\n    note: {outcome.note}" if outcome.note else ""
        if self._live is None:
            print_message(line)
        else:
            self._live.console.print(line, style="red" if failed else "")
        self.refresh(force=True)

    def refresh(self, force: bool = False) -> None:
        """Redraw the live display if it is older than REDRAW_EVERY_S. `force` redraws it in any
        case.
        """
        now = time.monotonic()
        if self._live is not None and (force or now - self._drawn_at >= REDRAW_EVERY_S):
            self._drawn_at = now
            self._live.update(self._render(), refresh=True)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 2))
        for number, job in sorted(self.running.items()):
            rows.add_row("·", self.labels[number], grid_lines.format_job_progress(job))
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{self.done}/{self.to_do} jobs", style="bold"),
            ProgressBar(total=max(self.to_do, 1), completed=self.done, width=32),
            Text(format_duration(time.monotonic() - self.began)),
            Text(f"{self.failed} failed" if self.failed else "", style="red"),
        )
        return Group(head, rows)
