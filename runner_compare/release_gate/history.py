"""History of a nightly gate: a file with one line per night, and the error rate that each night may use.

A gate that is repeated with the same results, such as a CI job that is started again, belongs to the same night.
All nights against one baseline share an error of 5 % for NO-GO. Night k may use 1/(k (k + 1)) of it:
these shares add up to at most 1, however many nights there are and however they depend on each other.
A GO has its own 5 % each night, because each night decides about another build.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from runner_base import DataError, convert_write_error, os_errors_as_data_error, print_message
from runner_compare.release_gate.verdicts import GateReport, to_dict

OPTION = "--history"
NEEDED = ("night", "time", "baseline_id", "report")


@dataclass(frozen=True)
class Night:
    """Line of the history file: the report of one night."""

    night: int
    time: str
    baseline_id: str
    report: dict[str, Any]
    results_id: str = ""  # empty in lines of an earlier version


@dataclass
class History:
    """Content of a history file, which is open so that a further night can be appended."""

    path: Path
    nights: list[Night]
    file: TextIO

    def get_nightly_report_number(self, baseline_id: str, results_id: str) -> int:
        """Return the number of this night. It is the last night again if the results are the same."""
        nights = [night for night in self.nights if night.baseline_id == baseline_id]
        is_repeated = bool(nights) and nights[-1].results_id == results_id
        return nights[-1].night if is_repeated else len(nights) + 1

    def append_nightly_gate_report(self, report: GateReport, baseline_id: str, results_id: str) -> None:
        """Append tonight's report to the file and flush it to disk. A repeated night adds no line."""
        if any((night.baseline_id, night.night) == (baseline_id, report.night) for night in self.nights):
            return
        line = {
            "night": report.night,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "baseline_id": baseline_id,
            "report": to_dict(report),
            "results_id": results_id,
        }
        try:
            self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise convert_write_error(self.path, error, OPTION) from error


def share_of_night(night: int) -> float:
    """Return the fraction of the 5 % error rate that one night may use for NO-GO verdicts. Night 0 has no
    history, and uses all of it.
    """
    return 1 / (night * (night + 1)) if night else 1.0


@contextmanager
def open_history(path: Path) -> Iterator[History]:
    """Open and lock a history file. A second gate waits until this gate has appended its report.

    A line that was cut off while it was written does not count, and is removed.
    """
    try:
        file = path.open("a+", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise convert_write_error(path, error, OPTION) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind("\n") + 1]
        nights = parse_nightly_gate_reports(whole, path)
        if len(whole) < len(text):
            print_message(f"note: {path}: incomplete last line removed")
            file.truncate(len(whole.encode(errors="surrogateescape")))
        yield History(path, nights, file)


def read_nightly_gate_reports(path: Path) -> list[Night]:
    """Return the nights in a history file."""
    with os_errors_as_data_error(path):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return parse_nightly_gate_reports(text[: text.rfind("\n") + 1], path)


def parse_nightly_gate_reports(text: str, path: Path) -> list[Night]:
    """Parse the lines of a history file. Raises DataError with the number of a damaged line."""
    nights = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            values = json.loads(line.encode())  # fails for bytes that are no text
            night = Night(**{key: values[key] for key in NEEDED}, results_id=values.get("results_id", ""))
            if not (isinstance(night.night, int) and isinstance(night.report["candidates"], list)):
                raise ValueError("no night")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"this line is not a report of a gate ({error})", key=f"{path}, line {number}", code="damaged"
            ) from error
        nights.append(night)
    return nights
