"""Real signals to real processes: who is stopped says so, and nobody is stopped twice in the middle of that."""

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
said = []
{}
print(*said)
"""


def said(tmp_path: Path, body: str, *before: str) -> str:
    """What a process says that sends itself signals; `before` is a shell's preparation."""
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
    body = f"try: send(signal.{name})\nexcept KeyboardInterrupt: said.append('interrupted')"
    assert said(tmp_path, body) == "interrupted"


def test_what_the_shell_ignores_stays_ignored_and_sigterm_works_all_the_same(tmp_path: Path) -> None:
    body = """
send(signal.SIGINT); send(signal.SIGHUP)
said.append('going on')
try: send(signal.SIGTERM)
except KeyboardInterrupt: said.append('interrupted')
"""
    assert said(tmp_path, body, "trap '' INT HUP;") == "going on interrupted"


CLOSING = """
try:
    with signals.deferred():
        try:
            with signals.interruptible():
                {first}
                said.append('work')
        except KeyboardInterrupt: said.append('stopped')
        finally:
            send(); send(signal.SIGTERM)
            said.append('closed')
except KeyboardInterrupt: said.append('interrupted')
"""


@pytest.mark.parametrize(
    ("first", "words"),
    [("send()", "stopped closed interrupted"), ("pass", "work closed interrupted")],
    ids=["twice", "while-closing"],
)
def test_what_is_begun_is_closed_before_a_signal_acts(tmp_path: Path, first: str, words: str) -> None:
    assert said(tmp_path, CLOSING.format(first=first)) == words


def test_one_that_comes_before_the_work_stops_it(tmp_path: Path) -> None:
    body = """
with signals.deferred():
    send()
    try:
        with signals.interruptible(): said.append('work')
    except KeyboardInterrupt: said.append('stopped')
with signals.redirected_to(lambda: said.append('told')): send()
"""
    assert said(tmp_path, body) == "stopped told"
