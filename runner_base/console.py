"""Printing: data is shown as data, and a lost reader does not end the work.

Text of users and models is never markup, and its control characters, which control a terminal, are
shown as \\x1b. A reader that leaves (`| head -1`), a full device and a closed stream end the
printing; the job continues.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base.uris import without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# a pipe, a terminal or a connection without a reader
READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


def plain(text: object) -> str:
    """Return a text with its control characters escaped, except for line ends and tabs."""
    return str(text).translate(CONTROLS)


def say(text: str) -> None:
    """Print a message on stderr."""
    print(plain(text), file=sys.stderr, flush=True)


def console(stream: Any = None, width_elsewhere: int = 160) -> Console:
    """Return a rich console for data; it does not fold tables when its output goes to a file."""
    from rich.console import Console

    class DataConsole(Console):
        """Takes each string as it is: a cell, a heading or a line."""

        def render_str(self, text: str, **how: Any) -> Any:
            return super().render_str(plain(text), **how)

    stream = stream or sys.stdout
    width = None if stream.isatty() else width_elsewhere
    return DataConsole(file=stream, width=width, markup=False, emoji=False, highlight=False)


def rich_table(frame: str = "SIMPLE_HEAD", **how: Any) -> Table:
    """Return a rich table with one of rich's frames."""
    from rich import box
    from rich.table import Table

    return Table(box=getattr(box, frame), **how)


class PlainFormatter(logging.Formatter):
    """Formats log lines, which may quote names, texts and tracebacks, without control characters
    and secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return plain(without_secrets(super().format(record)))


# log.info(..., extra=IN_TABLE): the table of a single job has it too
IN_TABLE: dict[str, object] = {"in_table": True}
# an engine's decisions: for the job's log.txt alone
LOG_ONLY: dict[str, object] = {"log_only": True}


class ForPeople(logging.Filter):
    """Keeps lines off stderr that are for the log alone, or that the table on stdout is about to
    repeat."""

    table_follows: ClassVar[bool] = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the line."""
        repeats = self.table_follows and getattr(record, "in_table", False)
        return not repeats and not getattr(record, "log_only", False)


# --------------------------------------------------------------------------------------------- the
# streams


class Outlet(io.FileIO):
    """A standard stream that accepts everything, whether or not somebody reads it."""

    lost: OSError | None = None  # why nothing is written any more
    written_at: ClassVar[float] = 0.0  # when either stream was written last, by the monotonic clock

    def write(self, data: Any, /) -> int:
        """Write the data, or drop them if nothing can be written any more."""
        Outlet.written_at = time.monotonic()
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def keep_streams() -> None:
    """Give this process stdout and stderr that outlive their readers; closed streams are replaced
    by /dev/null."""
    # else the next opened file would become a standard stream
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is not None and (_outlet(before) or not _writes_to(before, number)):
            continue
        through = before is not None and before.write_through
        encoding = before.encoding if before is not None else "utf-8"
        raw = Outlet(number, "wb", closefd=False)
        by_line = raw.isatty() or number == 2
        buffer = io.BufferedWriter(raw)
        after = io.TextIOWrapper(
            buffer, encoding, "backslashreplace", line_buffering=by_line, write_through=through
        )
        setattr(sys, name, after)


def unwritten() -> OSError | None:
    """Return why a result did not reach stdout if the device failed; a reader that left is no
    error."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    outlet = _outlet(sys.stdout)
    lost = outlet.lost if outlet else None
    return None if lost is None or lost.errno in READER_LEFT else lost


def _outlet(stream: Any) -> Outlet | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def _writes_to(stream: Any, number: int) -> bool:
    """Whether a stream is the process's own; its buffer is flushed first."""
    try:
        stream.flush()
    except (OSError, ValueError):  # nobody reads it
        return True
    try:
        return bool(stream.fileno() == number)
    except (OSError, ValueError):
        return False  # a test has replaced it
