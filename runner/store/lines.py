"""Evidence in lines that only grows: each is on disk when `append` returns, and a kill tears at most the last one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import TypeVar

from runner.core.errors import EvidenceError, cannot_write

Line = TypeVar("Line")


class GrowingFile:
    """Appends lines to a file that is created with the first of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, text: str) -> None:
        """Append one line at once."""
        line = (text + "\n").encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            while line:  # unbuffered: a write that a full disk cuts short says how far it got
                line = line[self._file.write(line) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_evidence(
    path: Path, parse: Callable[[str], Line], noun: str, repair: bool = False
) -> Iterator[tuple[int, Line]]:
    """Yield number and content of each line; with repair, cut off a last line that a crash left torn.

    `parse` raises ValueError, KeyError or TypeError for a line that is not what it should be; its number is named.
    """
    if not there(path):
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            yield number, parse(line.decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(path, number, f"is not a {noun} ({error})") from error


def there(path: Path) -> bool:
    """Whether a file of evidence is there; EvidenceError for what is no file, where reading may have no end."""
    if path.is_file() or not path.exists():
        return path.is_file()
    raise EvidenceError(f"{path} is no file, and evidence of this job would stand there: move it away")


def damaged(path: Path, number: int, why: str) -> EvidenceError:
    """Return the error about a line that cannot be gone on from."""
    return EvidenceError(
        f"{path}, line {number} {why}. Nothing was changed: mend or delete that line, or run with rerun=all to "
        "generate all samples again"
    )
