"""Stores the measurements of a memory task on disk, and reads them when the job is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.records.measurements import MeasurementFile


class RecordedPoints:
    """Stores the measurements of a memory task on disk, grouped by repeat.

    A point that failed is not stored, because memory may be free at the next start.
    """

    def __init__(self, folder: Path) -> None:
        self._file = MeasurementFile(folder)
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

    def stored_events(self, repeat: int) -> list[dict[str, Any]]:
        """Return the recorded events of a repeat. Events of an unfinished measurement are omitted."""
        return self._events.get(repeat, [])

    def append_measurement_event(self, repeat_number: int, event: dict[str, Any]) -> None:
        if "failed" in event:
            return
        self._file.append_measurement(repeat=repeat_number, event=event)
        if "speed" in event:
            self.done.append((repeat_number, event["point"]))

    def close(self) -> None:
        self._file.close()
