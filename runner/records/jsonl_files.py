"""Append-only text files, of which only the last line can be damaged if the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from runner_base import Call, DataError, JobFailed, RunRecordError, convert_write_error
from runner_base.errors import convert_error
from runner_base.gzip_files import GZIP_SUFFIX, read_gzip
from runner_base.result import ANSWER_KEYS

Line = TypeVar("Line")


class AppendOnlyFile:
    """Appends lines to a file, which is created with the first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append_line(self, text: str) -> None:
        """Append one line and write it to the file immediately."""
        line = (text + "\n").encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise deleted_file_error(self.path)
            while line:  # unbuffered, so that on a full disk `write` returns how much it has written
                line = line[self._file.write(line) :]
        except OSError as error:
            raise convert_write_error(self.path, error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_lines(
    path: Path, parse_line: Callable[[str], Line], line_description: str, repair: bool = False
) -> Iterator[tuple[int, Line]]:
    """Yield line number and parsed content of each line. `repair` removes an incomplete last line.

    `parse` raises ValueError, KeyError or TypeError for a damaged line; the error then names the
    line's number.
    """
    if not is_existing_regular_file(path):
        return
    data = _read_gzip_file(path) if path.suffix == GZIP_SUFFIX else path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            yield number, parse_line(line.decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged_line_error(
                path, number, f"the line is not a valid {line_description} ({error})"
            ) from error


def _read_gzip_file(path: Path) -> bytes:
    try:
        return read_gzip(path)
    except DataError as error:
        raise convert_error(error, RunRecordError) from error


def is_existing_regular_file(path: Path) -> bool:
    """Return whether a file exists. Raises RunRecordError for a pipe or device."""
    if path.is_file() or not path.exists():
        return path.is_file()
    raise RunRecordError(
        f"{path} is not a regular file. Move it, so that the job can write this file", code="unreadable"
    )


def damaged_line_error(path: Path, number: int, problem: str) -> RunRecordError:
    return RunRecordError(
        (
            f"{path}, line {number}: {problem}. Nothing was changed. Repair or delete the line, "
            "or rerun the job with rerun=all"
        ),
        code="damaged",
    )


def deleted_file_error(path: Path) -> JobFailed:
    return JobFailed(
        f"{path} and its answers were deleted during the job. Run the same command again", code="changed"
    )


def parse_agent_call(line: Mapping[str, Any]) -> Call:
    """Parse one line of calls.jsonl, the file with the calls of agents. Unknown keys are ignored."""
    names = ANSWER_KEYS | {item.name for item in fields(Call)}
    return Call.from_dict({key: value for key, value in line.items() if key in names})
