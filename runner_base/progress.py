"""A progress bar on stderr for anything a user waits for; a line every 10 s where stderr is not a terminal.

A worker of a grid draws no bar: `report_to` sends each step to the process that draws the whole
grid.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner_base import machine
from runner_base.console import console, plain, say
from runner_base.heartbeat import doing
from runner_base.texts import clock

REPORT_EVERY_S = 0.2
WATCHED_AFTER_S = 2.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class ProgressState:
    """The state of a progress bar."""

    what: str
    done: float
    total: float | None
    news: dict[str, str] = field(default_factory=dict)
    rss_mib: float = 0.0  # of the process that is doing it
    left_s: float | None = None  # None: unknown
    per_s: float | None = None  # steps per second; None: unknown

    def cells(self) -> list[str]:
        """Return count, speed, time left and news as a line shows them."""
        total = f"{self.done:,.0f}/{self.total:,.0f}" if self.total else ""
        speed = speed_in_words(self.per_s) if self.per_s else ""
        left = f"{clock(self.left_s)} left" if self.left_s else ""
        news = (f"{key} {value}" for key, value in self.news.items())
        return [cell for cell in (total, speed, left, *news) if cell]


_sink: Callable[[ProgressState], None] | None = None


def report_to(sink: Callable[[ProgressState], None] | None) -> None:
    """Send the steps of every progress bar to sink instead of drawing them."""
    global _sink
    _sink = sink


def tell(text: str) -> None:
    """Print a text on stderr before a long step; a grid's worker prints nothing, since the grid has
    shown its plan."""
    if _sink is None:
        say(text)


class Progress:
    """`with Progress(total, "gsm8k") as bar: bar.advance(1, accuracy="91.0 %")`."""

    def __init__(self, total: float | None, what: str, unit: str = "") -> None:
        self.total, self.what, self.unit = total, what, unit
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
        self._report({}, at_once=True)
        if _sink is None and sys.stderr.isatty():
            from rich import progress as rich_progress

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(bar_width=28),
                rich_progress.TextColumn("{task.fields[count]}", markup=False)
                if not self.unit
                else rich_progress.TaskProgressColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("{task.fields[left]}", markup=False),
                rich_progress.TextColumn("{task.fields[news]}", markup=False),
                console=console(sys.stderr),
                transient=True,
            )
            self._bar.start()
            self._id = self._bar.add_task(
                plain(self.what), total=self.total, news="", count=self._count(), left=""
            )
        # a bar draws itself; elsewhere a line says as much whenever 10 s were silent
        self._entered.enter_context(doing(None if self._bar is not None else self._line))
        return self

    def advance(self, step: float = 1, **news: str) -> None:
        """Advance by a step; news are shown as `name value` at the end of the line."""
        if self._began is None:  # the step was made since its description
            self._began = self._described_at, self._done + self._under_way
        self.show(self._done + step, **news)

    def skip(self, step: float = 1) -> None:
        """Advance by what an earlier start has done: it says nothing about the speed."""
        if self._began is not None:
            self._began = self._began[0], self._began[1] + step
        self.show(self._done + step)

    def show(self, done: float, **news: str) -> None:
        """Show an absolute position, which may be within a step."""
        self.show_begun(done, 0.0, **news)

    def show_begun(self, done: float, under_way: float, **news: str) -> None:
        """Show a position; what is under way moves the bar and the time that is left, but does not
        count as done."""
        self._done, self._under_way = done, under_way
        if self._began is None:
            self._began = time.monotonic(), done + under_way
        self._news = news or self._news
        self._report(news)
        if self._bar is not None:
            line = plain("  ".join(f"{key} {value}" for key, value in news.items()))
            left_s = self.left_s()
            fields = {"count": self._count(), "left": "" if left_s is None else f"{clock(left_s)} left"}
            self._bar.update(
                self._id, completed=done + under_way, **fields, **({"news": line} if news else {})
            )

    def _count(self) -> str:
        total = "?" if self.total is None else f"{self.total:.0f}"
        return f"{int(self._done):>{len(total)}}/{total}"

    def _line(self) -> str:
        """Return what the bar shows, as a line."""
        passed_s = clock(time.monotonic() - (self._described_at or self._entered_at))
        moved, left_s = self._moved(), self.left_s()
        if not self.total or moved is None:
            at = f" {self._count().strip()}" if self.total and not self.unit else ""
            return f"{self.what}{at} … {passed_s}"
        steps, seconds = moved
        cells = [self._count().strip() if not self.unit else self._share()]
        if not self.unit:
            cells.append(speed_in_words(steps / max(seconds, 1e-9)))
        cells += [f"{clock(left_s)} left"] if left_s is not None else []
        cells += [f"{key} {value}" for key, value in self._news.items()]
        return f"{self.what} {', '.join(cells)}"

    def _share(self) -> str:
        return f"{self._done / self.total:.0%}" if self.total else ""

    def _moved(self) -> tuple[float, float] | None:
        """Return by how much it has moved since this work began, and in how many seconds."""
        if self._began is None:
            return None
        (at, before), position = self._began, self._done + self._under_way
        return (position - before, time.monotonic() - at) if position > before else None

    def left_s(self) -> float | None:
        """Estimate the seconds left by the speed since this work began; None while nothing of it is
        done.

        The mean is taken over all of it: answers end in bunches, so that the speed of the last
        seconds is 0 or far too high.
        """
        if not self.total or (moved := self._moved()) is None:
            return None
        steps, seconds = moved
        return (self.total - self._done - self._under_way) * seconds / steps

    def describe(self, what: str) -> None:
        """Change the bar's description; while nothing is done, the time so far was spent on loading
        and the like."""
        self.what = what
        if self._began is None or self._done + self._under_way <= self._began[1]:
            self._began, self._described_at = None, time.monotonic()
        self._report({}, at_once=True)
        if self._bar is not None:
            self._bar.update(self._id, description=plain(what))

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        if self._bar is not None:
            self._bar.stop()

    def _report(self, news: dict[str, str], at_once: bool = False) -> None:
        now = time.monotonic()
        if _sink is not None and (at_once or now - self._reported_at >= REPORT_EVERY_S):
            self._reported_at = now
            per_s = None
            if (moved := self._moved()) is not None and not self.unit:
                per_s = moved[0] / max(moved[1], 1e-9)
            rss_mib = machine.rss_mib()
            _sink(ProgressState(self.what, self._done, self.total, news, rss_mib, self.left_s(), per_s))


def speed_in_words(per_s: float) -> str:
    """Write a speed: `2.3 per s`, `4.5 per min`."""
    return f"{per_s:,.3g} per s" if per_s >= 1 else f"{60 * per_s:.2g} per min"


def watched(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield items; if they take longer than two seconds, with a progress bar from then on."""
    began, at = time.monotonic(), 0
    while at < len(items) and time.monotonic() - began < WATCHED_AFTER_S:
        yield items[at]
        at += 1
    if at == len(items):
        return
    with Progress(len(items), what) as bar:
        bar.show(at)
        for item in items[at:]:
            yield item
            bar.advance()
