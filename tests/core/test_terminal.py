"""Lines from a pipe and from a keyboard; the terminal itself is tested with the chat."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raising import raises

from runner.core import terminal
from runner_base import signals
from runner_base.errors import RunnerError


def reader(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Return a function that returns one line after another, or raises an error in their place;
    then EOFError."""
    remaining: Iterator[str | type[BaseException]] = iter(lines)

    def read(_: str) -> str:
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def test_lines_go_on_behind_a_backslash_and_blank_ones_are_none() -> None:
    assert list(terminal.read_terminal_lines(reader("one\\", "two", "", "  ", "three"), "")) == [
        "one\ntwo",
        "three",
    ]


def test_ctrl_c_twice_ends_and_once_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    typed = reader(
        "one",
        terminal.CtrlCWhileReading,
        "two",
        terminal.CtrlCWhileReading,
        terminal.CtrlCWhileReading,
        "never",
    )
    lines = terminal.read_terminal_lines(typed, "again ends")
    assert list(lines) == ["one", "two"]
    assert capsys.readouterr().err.count("again ends") == 2


def test_a_pipe_is_read_line_by_line_and_refused_where_it_is_no_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n\xff\n")))
    lines: list[str] = []
    with (
        terminal.open_line_reader(tmp_path / "history") as read,
        raises(RunnerError, "damaged", "stdin, line 3"),
    ):
        lines += (read("") for _ in range(3))
    assert lines == ["one", "two"]
    assert not (tmp_path / "history").exists()


def test_ctrl_c_is_noted_while_an_answer_is_under_way_and_handed_back() -> None:
    before = signal.signal(signal.SIGINT, signals.handle_signal)
    try:
        with terminal.record_ctrl_c() as pressed:
            with pytest.raises(terminal.CtrlCWhileReading):
                signal.raise_signal(signal.SIGINT)
            pressed[:] = [False]
            signal.raise_signal(signal.SIGINT)
            assert pressed == [True]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signals.handle_signal
    finally:
        signal.signal(signal.SIGINT, before)
