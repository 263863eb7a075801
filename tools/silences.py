"""Runs a command and prints its longest silence, with the text before and after it (`python -m tools.silences
COMMAND...`).

`--terminal` gives the command a terminal of 100 columns instead of a pipe. `--above 10` exits with 1 if any silence is
longer than 10 s. A silence also ends when the command ends.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLUMNS, ROWS = 100, 40
SHOWN = 120  # characters of the text before and after a silence
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True)
class Silence:
    """A time without a byte of output."""

    seconds: float
    began_s: float  # since the command started
    before: str
    after: str


@dataclass(frozen=True)
class Watched:
    """A command that has ended: its exit code, its output and the silences in it."""

    code: int
    seconds: float
    output: str
    silences: list[Silence]

    @property
    def longest(self) -> Silence:
        return max(self.silences, key=lambda silence: silence.seconds)


def watch(
    command: Sequence[str],
    in_terminal: bool = False,
    copy: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Watched:
    """Run a command with stdout and stderr on one pipe or terminal, and note when it writes; copy shows the output."""
    if in_terminal:
        reader, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        of_terminal = {"TERM": "xterm", "COLUMNS": str(COLUMNS)}
    else:
        reader, end = os.pipe()
        of_terminal = {}
    variables = {**(os.environ if environment is None else environment), **of_terminal}
    started = last = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=variables)
    os.close(end)
    pieces: list[tuple[float, float, bytes]] = []  # when the silence began, when it ended, what ended it
    while data := _read(reader):
        now = time.monotonic()
        pieces.append((last, now, data))
        last = now
        if copy:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    code = process.wait()
    os.close(reader)
    ended = time.monotonic()
    pieces.append((last, ended, b""))
    texts = [data.decode(errors="replace") for _, _, data in pieces]
    silences = [
        Silence(
            until - since,
            since - started,
            _last_line("".join(texts[max(0, at - 50) : at])),
            _first_line("".join(texts[at : at + 50])),
        )
        for at, (since, until, _) in enumerate(pieces)
    ]
    return Watched(code, ended - started, "".join(texts), silences)


def _read(reader: int) -> bytes:
    """Return the next bytes; empty at the end, which a terminal reports as an error."""
    select.select([reader], [], [])
    try:
        return os.read(reader, 65536)
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


def _lines(text: str) -> list[str]:
    shown = CONTROLS.sub("", text.replace("\r", "\n"))
    return [line.strip() for line in shown.splitlines() if line.strip()]


def _last_line(text: str) -> str:
    return (_lines(text) or ["(start)"])[-1][:SHOWN]


def _first_line(text: str) -> str:
    return (_lines(text) or ["(end)"])[0][:SHOWN]


def describe(watched: Watched, in_terminal: bool) -> str:
    """Return one line about the longest silence, and the lines around it."""
    longest = watched.longest
    return (
        f"{'terminal' if in_terminal else 'pipe'}: exit code {watched.code} after {watched.seconds:.1f} s; longest "
        f"silence {longest.seconds:.1f} s, from {longest.began_s:.1f} s on\n"
        f"  before: {longest.before}\n  after:  {longest.after}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and print its longest silence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.silences", description=__doc__)
    parser.add_argument("--terminal", action="store_true", help="a terminal instead of a pipe")
    parser.add_argument("--above", type=float, help="exit with 1 if a silence is longer, in s")
    parser.add_argument("--quiet", action="store_true", help="do not show the command's output")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    if not given.command:
        parser.error("give a command")
    watched = watch(given.command, given.terminal, copy=not given.quiet)
    print(describe(watched, given.terminal), file=sys.stderr)
    too_long = given.above is not None and watched.longest.seconds > given.above
    return 1 if too_long else watched.code


if __name__ == "__main__":
    sys.exit(main())
