"""measurements.jsonl: what a job has measured, a line for each measurement as it ends; the next
start goes on from it.

Lines are evidence as samples are: appended unbuffered, with a checksum, and an incomplete last one
is cut off. Each says under which conditions it was made. A measurement by another version of this
program, or on another machine, is made again; one that failed is not kept, since memory may be free
at the next start.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from runner.records.lines import GrowingFile, read_evidence
from runner_base import machine, sealed, short_hash, unsealed
from runner_base.notes import Note, note

MEASUREMENTS = "measurements.jsonl"
PACKAGE = "runner-llm"


def conditions() -> str:
    """Return a hash of what figures depend on beside the job: the machine, and the versions of all
    that computes."""
    try:
        own = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        own = "not installed"
    return short_hash([machine.describe(), machine.versions(), own])


class Measurements:
    """The measurements of a job: those that earlier starts have made, and the file that takes
    further ones."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; raises EvidenceError for a damaged line."""
        path = folder / MEASUREMENTS
        self._conditions, self._file = conditions(), GrowingFile(path)
        lines = [line for _, line in read_evidence(path, _parsed, "measurement", repair=True)]
        self.earlier = [line for line in lines if line["conditions"] == self._conditions]
        self.outdated = len(lines) - len(self.earlier)  # made under other conditions

    def keep(self, **values: Any) -> None:
        """Append a measurement; it is on disk when this returns."""
        self._file.append(sealed(values | {"conditions": self._conditions}))

    def close(self) -> None:
        self._file.close()


def notes_on(kept: int, total: int, outdated: int) -> list[Note]:
    """Return what of a record earlier starts have measured, and what was measured again."""
    notes = [note("measurements_on_disk", count=kept, total=total)] * bool(kept)
    return notes + [note("measured_again", lines=outdated, file=MEASUREMENTS)] * bool(outdated)


def _parsed(text: str) -> dict[str, Any]:
    line = unsealed(text)
    if not isinstance(line.get("conditions"), str):
        raise ValueError("it does not say under which conditions it was made")
    return line
