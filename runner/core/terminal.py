"""Reads user input from a terminal or a pipe. Ctrl-C stops only the current answer."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner_base import escape_control_characters, iter_text_lines, print_message, signals, suppress_heartbeat

HISTORY_LINES = 1000
SIGNAL_CHECK_S = 0.5


class CtrlCWhileReading(Exception):
    """Raised if Ctrl-C is pressed while the program waits for input."""


class ThinkingPrinter:
    """Prints a model's thinking on stderr, because stdout is for answers.

    The text is dimmed in a terminal. Elsewhere it begins with [thinking].
    """

    DIM, PLAIN = "\x1b[2m", "\x1b[0m"

    def __init__(self) -> None:
        self._is_open = False

    def print_thinking_chunk(self, text: str) -> None:
        begin = ""
        if not self._is_open:
            text = text.lstrip()
            begin = self.DIM if sys.stderr.isatty() else "[thinking] "
        if text:
            self._is_open = True
            print(f"{begin}{escape_control_characters(text)}", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._is_open:
            print(self.PLAIN if sys.stderr.isatty() else "", file=sys.stderr, flush=True)
        self._is_open = False


def read_terminal_lines(read_line: Callable[[str], str], exit_hint: str) -> Iterator[str]:
    """Yield the lines that a user types. A final backslash continues the line, and Ctrl-C twice ends the
    input.
    """
    again = False
    while True:
        try:
            line = read_line("you> ")
            while line.endswith("\\"):
                line = f"{line[:-1]}\n{read_line('...> ')}"
        except EOFError:
            if sys.stdin.isatty():  # behind the prompt
                print(flush=True)
            return
        except CtrlCWhileReading:
            print(flush=True)
            if again:
                return
            again = True
            print_message(exit_hint)
            continue
        again = False
        if line.strip():
            yield line


@contextlib.contextmanager
def open_line_reader(history_file: Path) -> Iterator[Callable[[str], str]]:
    """Yield a function that reads one line of input. A terminal offers line editing and a
    history.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        lines = iter_text_lines(sys.stdin.buffer, "stdin")

        def read_from_pipe(_: str) -> str:
            with suppress_heartbeat():
                for _number, line in lines:
                    return line
            raise EOFError

        yield read_from_pipe
        return
    try:
        import readline
    except ImportError:  # some builds of Python lack it: then lines cannot be edited
        with suppress_heartbeat():
            yield input
        return

    def read_from_terminal(prompt: str) -> str:
        """Read one line. A timer makes sure that a signal just before `input` blocks is not missed."""
        signal.setitimer(signal.ITIMER_REAL, SIGNAL_CHECK_S, SIGNAL_CHECK_S)
        try:
            return input(prompt)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, lambda *_: None)
    with contextlib.suppress(OSError):
        readline.read_history_file(history_file)
    readline.set_history_length(HISTORY_LINES)
    try:
        with suppress_heartbeat():  # a line would come into the middle of an answer
            yield read_from_terminal
    finally:
        signal.signal(signal.SIGALRM, before)
        with contextlib.suppress(OSError):
            readline.write_history_file(history_file)


@contextlib.contextmanager
def record_ctrl_c() -> Iterator[list[bool]]:
    """Yield a list whose first element becomes True if Ctrl-C is pressed while an answer is generated.

    The list is empty while the program waits for input, where Ctrl-C raises CtrlCWhileReading. A
    second Ctrl-C during an answer interrupts the program.
    """
    pressed: list[bool] = []

    def handle_sigint(*_: Any) -> None:
        if not pressed:
            raise CtrlCWhileReading
        if pressed[0]:
            signals.handle_signal()
        pressed[0] = True

    before = signal.getsignal(signal.SIGINT)
    if before is not signals.handle_signal:  # if nohup or a shell's & ignores it, it stays ignored
        yield pressed
        return
    signal.signal(signal.SIGINT, handle_sigint)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
