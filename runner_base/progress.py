"""Progress bars on stderr, or a line every 10 s where stderr is not a terminal.

A grid's worker draws no bar: `set_progress_sink` sends each step to the process that draws the
whole grid.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner_base import machine
from runner_base.console import create_console, escape_control_characters, print_message
from runner_base.heartbeat import report_step
from runner_base.texts import format_duration

REPORT_EVERY_S = 0.2
WATCHED_AFTER_S = 2.0

BYTES = "bytes"  # a unit that is shown as a percentage

Item = TypeVar("Item")


@dataclass(frozen=True)
class ProgressState:
    what: str
    done: float
    total: float | None
    news: dict[str, str] = field(default_factory=dict)
    rss_mib: float = 0.0  # of the process that is doing it
    left_s: float | None = None  # None: unknown
    unit: str = ""  # what a step is, such as questions

    def format_count(self) -> str:
        """Format the steps, e.g. `275/500 questions`; "" without a total."""
        return f"{self.done:,.0f}/{self.total:,.0f} {self.unit}".strip() if self.total else ""


_sink: Callable[[ProgressState], None] | None = None


def set_progress_sink(on_progress: Callable[[ProgressState], None] | None) -> None:
    """Report the state of every progress bar to `on_progress` instead of drawing the bars."""
    global _sink
    _sink = on_progress


def announce(message: str) -> None:
    """Print a message on stderr before a long step. Workers of a grid print nothing."""
    if _sink is None:
        print_message(message)


class Progress:
    """Progress bar as context manager, with speed, time left and optional values.

    Example: `with Progress(total, "gsm8k", "questions") as bar: bar.advance(1, accuracy="91.0 %")`.
    """

    def __init__(self, total: float | None, title: str, unit: str = "") -> None:
        self.total, self.what, self.unit = total, title, unit  # the unit names a step
        self._bar: Any = None
        self._id: Any = None
        self._done = self._under_way = 0.0
        # when this work began, and the position then
        self._began: tuple[float, float] | None = None
        self._described_at = 0.0
        self._reported_at = 0.0
        self._news: dict[str, str] = {}
        self._entered = ExitStack()
        self._entered_at = 0.0

    def __enter__(self) -> Progress:
        self._entered_at = time.monotonic()
        self._began = self._entered_at, 0.0
        self._send_state({}, force=True)
        if _sink is None and sys.stderr.isatty():
            from rich import progress as rich_progress

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(bar_width=28),
                rich_progress.TextColumn("{task.fields[count]}", markup=False)
                if self.unit != BYTES
                else rich_progress.TaskProgressColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("{task.fields[left]}", markup=False),
                rich_progress.TextColumn("{task.fields[news]}", markup=False),
                console=create_console(sys.stderr),
                transient=True,
            )
            self._bar.start()
            self._id = self._bar.add_task(
                escape_control_characters(self.what),
                total=self.total,
                news="",
                count=self._format_count(),
                left="",
            )
        # a bar draws itself; elsewhere a line says as much whenever 10 s were silent
        self._entered.enter_context(
            report_step(None if self._bar is not None else self._format_progress_line)
        )
        return self

    def advance(self, step: float = 1, **news: str) -> None:
        """Advance by `step`. Keyword arguments appear as `name value` at the end of the line."""
        if self._began is None:  # the step was made since its description
            self._began = self._described_at, self._done + self._under_way
        self.set_position(self._done + step, **news)

    def skip(self, step: float = 1) -> None:
        """Count steps that were completed earlier. The displayed speed ignores these steps."""
        if self._began is not None:
            self._began = self._began[0], self._began[1] + step
        self.set_position(self._done + step)

    def set_position(self, done: float, **news: str) -> None:
        """Set the absolute position, which may be a fraction between two steps."""
        self.set_completed_and_pending_steps(done, 0.0, **news)

    def set_completed_and_pending_steps(self, done: float, under_way: float, **news: str) -> None:
        """Set the number of completed steps and of pending steps. Only completed steps are displayed as
        done.
        """
        self._done, self._under_way = done, under_way
        if self._began is None:
            self._began = time.monotonic(), done + under_way
        self._news = news or self._news
        self._send_state(news)
        if self._bar is not None:
            line = escape_control_characters("  ".join(f"{key} {value}" for key, value in news.items()))
            left_s = self.estimate_seconds_left()
            fields = {
                "count": self._format_count(),
                "left": "" if left_s is None else f"{format_duration(left_s)} left",
            }
            self._bar.update(
                self._id, completed=done + under_way, **fields, **({"news": line} if news else {})
            )

    def _format_count(self) -> str:
        total = "?" if self.total is None else f"{self.total:.0f}"
        return f"{int(self._done):>{len(total)}}/{total} {self.unit}".rstrip()

    def _format_progress_line(self) -> str:
        passed_s = format_duration(time.monotonic() - (self._described_at or self._entered_at))
        moved, left_s = self._measure_steps_and_seconds(), self.estimate_seconds_left()
        gap = ", " if ":" in self.what else ": "
        if not self.total or moved is None:
            at = f"{gap}{self._format_count().strip()}" if self.total and self.unit != BYTES else ""
            return f"{self.what}{at} … {passed_s}"
        steps, seconds = moved
        cells = [self._format_count().strip() if self.unit != BYTES else self._format_fraction()]
        if self.unit != BYTES:
            cells.append(format_speed(steps / max(seconds, 1e-9)))
        cells += [f"{format_duration(left_s)} left"] if left_s is not None else []
        cells += [f"{key} {value}" for key, value in self._news.items()]
        return f"{self.what}{gap}{', '.join(cells)}"

    def _format_fraction(self) -> str:
        return f"{self._done / self.total:.0%}" if self.total else ""

    def _measure_steps_and_seconds(self) -> tuple[float, float] | None:
        """Return the steps and seconds since the bar was started, or None before the first step."""
        if self._began is None:
            return None
        (at, before), position = self._began, self._done + self._under_way
        return (position - before, time.monotonic() - at) if position > before else None

    def estimate_seconds_left(self) -> float | None:
        """Estimate the seconds left from the mean speed so far; None before the first step.

        The mean covers all steps: answers end in bunches, so the speed of the last seconds is 0 or
        far too high.
        """
        if not self.total or (moved := self._measure_steps_and_seconds()) is None:
            return None
        steps, seconds = moved
        return (self.total - self._done - self._under_way) * seconds / steps

    def set_title(self, title: str) -> None:
        """Change the bar's title. A change before the first step restarts the timing.

        The time before then was spent on loading, which must not count for the speed.
        """
        self.what = title
        if self._began is None or self._done + self._under_way <= self._began[1]:
            self._began, self._described_at = None, time.monotonic()
        self._send_state({}, force=True)
        if self._bar is not None:
            self._bar.update(self._id, description=escape_control_characters(title))

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        if self._bar is not None:
            self._bar.stop()

    def _send_state(self, news: dict[str, str], force: bool = False) -> None:
        now = time.monotonic()
        if _sink is not None and (force or now - self._reported_at >= REPORT_EVERY_S):
            self._reported_at = now
            rss_mib, left_s = machine.rss_mib(), self.estimate_seconds_left()
            _sink(ProgressState(self.what, self._done, self.total, news, rss_mib, left_s, self.unit))


def format_speed(per_s: float) -> str:
    """Format a speed, e.g. `2.3 per s` or `4.5 per min`."""
    return f"{per_s:,.3g} per s" if per_s >= 1 else f"{60 * per_s:.2g} per min"


def iterate_with_progress(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """Yield the items, with a progress bar if the iteration takes longer than two seconds."""
    began, at = time.monotonic(), 0
    while at < len(items) and time.monotonic() - began < WATCHED_AFTER_S:
        yield items[at]
        at += 1
    if at == len(items):
        return
    with Progress(len(items), title, unit) as bar:
        bar.set_position(at)
        for item in items[at:]:
            yield item
            bar.advance()
