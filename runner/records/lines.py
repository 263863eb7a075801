"""Files of evidence to which lines are appended; a kill can leave only the last line incomplete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from runner_base import Call, DataError, EvidenceError, JobFailed, cannot_write
from runner_base.errors import convert_error
from runner_base.gzip_files import GZIP_SUFFIX, read_gzip
from runner_base.result import ANSWER_KEYS

Line = TypeVar("Line")


class GrowingFile:
    """Appends lines to a file, which the first line creates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, text: str) -> None:
        """Append one line; it is in the file when this returns."""
        line = (text + "\n").encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise deleted(self.path)
            while line:  # unbuffered, so that on a full disk `write` returns how much it has written
                line = line[self._file.write(line) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_evidence(
    path: Path, parse: Callable[[str], Line], noun: str, repair: bool = False
) -> Iterator[tuple[int, Line]]:
    """Yield number and content of each line; with repair, cut off an incomplete last line that a
    crash has left.

    `parse` raises ValueError, KeyError or TypeError for a damaged line; the error then names the
    line's number.
    """
    if not is_file(path):
        return
    data = _read_gzip(path) if path.suffix == GZIP_SUFFIX else path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            yield number, parse(line.decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(path, number, f"is not a {noun} ({error})") from error


def _read_gzip(path: Path) -> bytes:
    try:
        return read_gzip(path)
    except DataError as error:
        raise convert_error(error, EvidenceError) from error


def is_file(path: Path) -> bool:
    """Return whether a file of evidence exists; EvidenceError for a pipe or device, which might be
    read without end."""
    if path.is_file() or not path.exists():
        return path.is_file()
    raise EvidenceError(
        f"{path} is not a regular file, but a file of this job has this name: move it away", code="unreadable"
    )


def damaged(path: Path, number: int, why: str) -> EvidenceError:
    """Return the error about a damaged line, from which a job cannot resume."""
    return EvidenceError(
        f"{path}, line {number} {why}. Nothing was changed: repair or delete that line, or run with rerun=all to "
        "do all of the job again",
        code="damaged",
    )


def deleted(path: Path) -> JobFailed:
    """Return the error about a file that was deleted while a job writes it: what is written further
    is nowhere."""
    return JobFailed(
        f"{path} was deleted while the job was running, and its answers so far with it: run the same command again",
        code="changed",
    )


def call_in(line: Mapping[str, Any]) -> Call:
    """Read the call in a line of calls.jsonl, which says more than the call."""
    names = ANSWER_KEYS | {item.name for item in fields(Call)}
    return Call.from_dict({key: value for key, value in line.items() if key in names})
