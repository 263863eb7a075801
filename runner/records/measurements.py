"""Reads and writes measurements.jsonl, from which an interrupted job resumes. Each line is a
finished measurement.

Lines are appended unbuffered with a checksum like samples, and an incomplete last one is
removed. Each records its conditions. A measurement by another version of this program, or
on another machine, is repeated; a failed one is not stored, because memory may be free at
the next start.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from runner.records.jsonl_files import AppendOnlyFile, read_lines
from runner_base import compute_short_json_hash, dump_signed_line, machine, parse_signed_line
from runner_base.notes import Note, note

MEASUREMENTS = "measurements.jsonl"
PACKAGE = "runner-llm"


def hash_machine_and_versions() -> str:
    try:
        own = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        own = "not installed"
    return compute_short_json_hash([machine.describe_machine(), machine.library_versions(), own])


class MeasurementFile:
    """A job's measurements.jsonl: recorded measurements, and a writer for new ones."""

    def __init__(self, folder: Path) -> None:
        """Read all existing measurements. Raises RunRecordError for a damaged line."""
        path = folder / MEASUREMENTS
        self._conditions, self._file = hash_machine_and_versions(), AppendOnlyFile(path)
        lines = [
            line for _, line in read_lines(path, _parse_signed_measurement_line, "measurement", repair=True)
        ]
        self.earlier = [line for line in lines if line["conditions"] == self._conditions]
        self.outdated = len(lines) - len(self.earlier)  # made under other conditions

    def append_measurement(self, **values: Any) -> None:
        """Append a measurement and write it to disk immediately."""
        self._file.append_line(dump_signed_line(values | {"conditions": self._conditions}))

    def close(self) -> None:
        self._file.close()


def make_measurement_notes(num_reused: int, num_total: int, num_outdated: int) -> list[Note]:
    notes = [note("measurements_on_disk", count=num_reused, total=num_total)] * bool(num_reused)
    return notes + [note("measured_again", lines=num_outdated, file=MEASUREMENTS)] * bool(num_outdated)


def _parse_signed_measurement_line(text: str) -> dict[str, Any]:
    line = parse_signed_line(text)
    if not isinstance(line.get("conditions"), str):
        raise ValueError("the field 'conditions' (hash of machine and versions) is missing")
    return line
