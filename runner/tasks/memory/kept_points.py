"""What earlier starts of a memory task have measured: the stages of each repeat, up to its last
whole point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.records.measurements import Measurements


class KeptPoints:
    """The events of the probe that are on disk, by repeat, and those that follow.

    A point that failed is not kept, since memory may be free at the next start.
    """

    def __init__(self, folder: Path) -> None:
        self._file = Measurements(folder)
        self.outdated = self._file.outdated
        self._events: dict[int, list[dict[str, Any]]] = {}
        for line in self._file.earlier:
            self._events.setdefault(line["repeat"], []).append(line["event"])
        self.done = [
            (repeat, event["point"])
            for repeat, events in self._events.items()
            for event in events
            if "speed" in event
        ]
        self.count = len(self.done)  # of earlier starts

    def events(self, repeat: int) -> list[dict[str, Any]]:
        """Return what earlier starts have measured of a repeat; a point whose end is missing is
        measured again."""
        return self._events.get(repeat, [])

    def keep(self, repeat: int, event: dict[str, Any]) -> None:
        if "failed" in event:
            return
        self._file.keep(repeat=repeat, event=event)
        if "speed" in event:
            self.done.append((repeat, event["point"]))

    def close(self) -> None:
        self._file.close()
