"""A progress bar on stderr for anything a user waits for; silent when stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """`with Progress(total, "gsm8k") as bar: bar.advance(1, accuracy="91.0 %")`."""

    def __init__(self, total: float | None, what: str, unit: str = "") -> None:
        self.total, self.what, self.unit = total, what, unit
        self._bar: Any = None
        self._id: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(bar_width=28),
                rich_progress.MofNCompleteColumn() if not self.unit else rich_progress.TaskProgressColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("left"),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[news]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._id = self._bar.add_task(self.what, total=self.total, news="")
        return self

    def advance(self, step: float = 1, **news: str) -> None:
        """Move on by step; news are shown as `name value` at the end of the line."""
        if self._bar is not None:
            line = "  ".join(f"{key} {value}" for key, value in news.items())
            self._bar.update(self._id, advance=step, **({"news": line} if news else {}))

    def say(self, what: str) -> None:
        """Change what the bar says is going on."""
        if self._bar is not None:
            self._bar.update(self._id, description=what)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
