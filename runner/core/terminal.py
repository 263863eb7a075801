"""Reads lines from a terminal or a pipe; Ctrl-C stops the answer that is being generated, not the
program."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner_base import plain, read_lines, say, signals, silent

HISTORY_LINES = 1000
SIGNAL_CHECK_S = 0.5


class CtrlC(Exception):
    """Ctrl-C while the program waits for a line."""


class Thoughts:
    """Prints what a model thinks on stderr, dimmed in a terminal and marked elsewhere: stdout has
    the answers."""

    DIM, PLAIN = "\x1b[2m", "\x1b[0m"

    def __init__(self) -> None:
        self._is_open = False

    def show(self, text: str) -> None:
        """Print a piece of a thought."""
        begin = ""
        if not self._is_open:
            text = text.lstrip()
            begin = self.DIM if sys.stderr.isatty() else "[thinking] "
        if text:
            self._is_open = True
            print(f"{begin}{plain(text)}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_open:
            print(self.PLAIN if sys.stderr.isatty() else "", file=sys.stderr, flush=True)
        self._is_open = False


def lines_of(read: Callable[[str], str], how_to_end: str) -> Iterator[str]:
    r"""Yield what the user types; a line that ends with \ continues on the next one, and Ctrl-C
    twice ends."""
    again = False
    while True:
        try:
            line = read("you> ")
            while line.endswith("\\"):
                line = f"{line[:-1]}\n{read('...> ')}"
        except EOFError:
            if sys.stdin.isatty():  # behind the prompt
                print(flush=True)
            return
        except CtrlC:
            print(flush=True)
            if again:
                return
            again = True
            say(how_to_end)
            continue
        again = False
        if line.strip():
            yield line


@contextlib.contextmanager
def reading(history: Path) -> Iterator[Callable[[str], str]]:
    """Yield a function that reads a line: in a terminal with line editing and a history file, else
    from the pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        lines = read_lines(sys.stdin.buffer, "stdin")

        def take(_: str) -> str:
            with silent():
                for _number, line in lines:
                    return line
            raise EOFError

        yield take
        return
    try:
        import readline
    except ImportError:  # some builds of Python lack it: then lines cannot be edited
        with silent():
            yield input
        return

    def ask(prompt: str) -> str:
        """Read a line; the timer lets Python handle a signal that came just before it began to read
        the terminal."""
        signal.setitimer(signal.ITIMER_REAL, SIGNAL_CHECK_S, SIGNAL_CHECK_S)
        try:
            return input(prompt)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, lambda *_: None)
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    try:
        with silent():  # a line would come into the middle of an answer
            yield ask
    finally:
        signal.signal(signal.SIGALRM, before)
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


@contextlib.contextmanager
def ctrl_c() -> Iterator[list[bool]]:
    """Set the yielded list's flag at Ctrl-C during an answer; without an answer, or at the second
    time, interrupt."""
    pressed: list[bool] = []

    def note(*_: Any) -> None:
        if not pressed:
            raise CtrlC
        if pressed[0]:
            signals.interrupt()
        pressed[0] = True

    before = signal.getsignal(signal.SIGINT)
    if before is not signals.interrupt:  # if nohup or a shell's & ignores it, it stays ignored
        yield pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
