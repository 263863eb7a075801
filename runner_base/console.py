"""Console output that escapes control characters and survives a closed pipe.

Text of users and models is never markup, and control characters are shown as escape
sequences. If the reader leaves (`head -1`), the device is full or a stream is closed,
printing stops and the job continues.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base.uris import redact_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# a pipe, a terminal or a connection without a reader
READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


def escape_control_characters(text: object) -> str:
    """Escape control characters in a text, except line ends and tabs."""
    return str(text).translate(CONTROLS)


def print_message(message: str) -> None:
    """Print a message on stderr."""
    print(escape_control_characters(message), file=sys.stderr, flush=True)


class LineTrimmingStream:
    """Text stream that removes trailing spaces, because rich pads each line of a table with spaces."""

    TRAILING = re.compile(r" +(?=\n)")

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(self.TRAILING.sub("", text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def create_console(stream: Any = None, non_terminal_width: int = 160) -> Console:
    """Create a rich console for data. Tables keep their full width when output goes to a file."""
    from rich.console import Console

    class DataConsole(Console):
        """Console that prints strings literally, without markup."""

        def render_str(self, text: str, **render_options: Any) -> Any:
            return super().render_str(escape_control_characters(text), **render_options)

    stream = stream or sys.stdout
    width = None if stream.isatty() else non_terminal_width
    if not stream.isatty():
        stream = LineTrimmingStream(stream)
    return DataConsole(file=stream, width=width, markup=False, emoji=False, highlight=False)


def create_rich_table(frame: str = "SIMPLE_HEAD", **how: Any) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=getattr(box, frame), **how)


class PlainFormatter(logging.Formatter):
    """Log formatter that escapes control characters and removes secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_control_characters(redact_secrets(super().format(record)))


# log.info(..., extra=IN_TABLE): the table of a single job has it too
IN_TABLE: dict[str, object] = {"in_table": True}
# an engine's decisions: for the job's log.txt alone
LOG_ONLY: dict[str, object] = {"log_only": True}


class StderrFilter(logging.Filter):
    """Log filter that removes lines from stderr if they belong only in log.txt or repeat the
    result table.
    """

    table_follows: ClassVar[bool] = False

    def filter(self, record: logging.LogRecord) -> bool:
        repeats = self.table_follows and getattr(record, "in_table", False)
        return not repeats and not getattr(record, "log_only", False)


# --------------------------------------------------------------------------------------------- the
# streams


class ResilientStream(io.FileIO):
    """Standard stream that, after the first write error, discards all further output instead of raising."""

    lost: OSError | None = None  # why nothing is written any more
    written_at: ClassVar[float] = 0.0  # when either stream was written last, by the monotonic clock

    def write(self, data: Any, /) -> int:
        ResilientStream.written_at = time.monotonic()
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def install_fault_tolerant_streams() -> None:
    """Replace stdout and stderr by streams that keep working after the reader closes the pipe.

    Closed streams become /dev/null.
    """
    # else the next opened file would become a standard stream
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is not None and (
            _find_resilient_stream(before) or not _writes_to_descriptor(before, number)
        ):
            continue
        through = before is not None and before.write_through
        encoding = before.encoding if before is not None else "utf-8"
        raw = ResilientStream(number, "wb", closefd=False)
        by_line = raw.isatty() or number == 2
        buffer = io.BufferedWriter(raw)
        after = io.TextIOWrapper(
            buffer, encoding, "backslashreplace", line_buffering=by_line, write_through=through
        )
        setattr(sys, name, after)


def find_stdout_error() -> OSError | None:
    """Return the error that prevented writing to stdout, or None. A closed pipe does not count as an
    error.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    outlet = _find_resilient_stream(sys.stdout)
    lost = outlet.lost if outlet else None
    return None if lost is None or lost.errno in READER_LEFT else lost


def _find_resilient_stream(stream: Any) -> ResilientStream | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, ResilientStream) else None


def _writes_to_descriptor(stream: Any, descriptor: int) -> bool:
    """Return whether a stream writes to a file descriptor. Flushes the stream first."""
    try:
        stream.flush()
    except (OSError, ValueError):  # nobody reads it
        return True
    try:
        return bool(stream.fileno() == descriptor)
    except (OSError, ValueError):
        return False  # a test has replaced it
