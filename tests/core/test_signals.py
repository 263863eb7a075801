"""Real signals to real processes: each interrupts its process once, and no second one interrupts the cleanup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from runner.core import signals

signals.install_handlers()
def send(number=signal.SIGINT): os.kill(os.getpid(), number)
printed = []
{}
print(*printed)
"""


def printed(tmp_path: Path, body: str, *before: str) -> str:
    """Return what a process prints that sends itself signals; `before` are shell commands that come first."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body))
    done = subprocess.run(
        ["bash", "-c", " ".join([*before, f"exec {sys.executable} {file}"])],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_is_an_interrupt(tmp_path: Path, name: str) -> None:
    body = f"try: send(signal.{name})\nexcept KeyboardInterrupt: printed.append('interrupted')"
    assert printed(tmp_path, body) == "interrupted"


def test_what_the_shell_ignores_stays_ignored_and_sigterm_still_works(tmp_path: Path) -> None:
    body = """
send(signal.SIGINT); send(signal.SIGHUP)
printed.append('going on')
try: send(signal.SIGTERM)
except KeyboardInterrupt: printed.append('interrupted')
"""
    assert printed(tmp_path, body, "trap '' INT HUP;") == "going on interrupted"


CLOSING = """
try:
    with signals.deferred():
        try:
            with signals.interruptible():
                {first}
                printed.append('work')
        except KeyboardInterrupt: printed.append('stopped')
        finally:
            send(); send(signal.SIGTERM)
            printed.append('closed')
except KeyboardInterrupt: printed.append('interrupted')
"""


@pytest.mark.parametrize(
    ("first", "words"),
    [("send()", "stopped closed interrupted"), ("pass", "work closed interrupted")],
    ids=["twice", "while-closing"],
)
def test_what_is_begun_is_closed_before_a_signal_acts(tmp_path: Path, first: str, words: str) -> None:
    assert printed(tmp_path, CLOSING.format(first=first)) == words


def test_one_that_comes_before_the_work_stops_it(tmp_path: Path) -> None:
    body = """
with signals.deferred():
    send()
    try:
        with signals.interruptible(): printed.append('work')
    except KeyboardInterrupt: printed.append('stopped')
with signals.redirected_to(lambda: printed.append('redirected')): send()
"""
    assert printed(tmp_path, body) == "stopped redirected"


WHILE_A_CLASS_IS_MADE = """
from runner.core.entry import run_entry
run_entry("error", lambda: exec("send()", globals()), when_interrupted="interrupted")
"""


def test_an_interrupt_while_a_class_is_made_is_the_same_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(WHILE_A_CLASS_IS_MADE))
    command = [sys.executable, "-m", "program"]  # a file or -c sets aside what has passed
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
