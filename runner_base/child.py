"""Child processes of this program: they run its Python with its modules, and never outlive it."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner_base.known_secrets import environment_for_children

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def start(
    *arguments: str, environment: Mapping[str, str] | None = None, is_trusted: bool = True, **popen: Any
) -> subprocess.Popen[bytes]:
    """Start Python with these arguments; it finds modules where this process does, whatever the
    working directory.

    A child that is not trusted reads what a model or a checkpoint has written, and gets no secrets.
    """
    modules = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    own = os.environ if is_trusted else environment_for_children()
    variables = {**own, **modules, **(environment or {})}
    return subprocess.Popen([sys.executable, "-P", *arguments], env=variables, **popen)


def send_input(process: subprocess.Popen[bytes], value: Any) -> None:
    """Write a pickled value to the process's stdin and close it; if the process is dead, its exit
    code says why."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(pickle.dumps(value))


def end_with_parent(parent: int | None = None) -> None:
    """In a child: ask the kernel to kill it when its parent dies; exit at once where the parent has
    died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(1)


def describe_exit(code: int) -> str:
    """Say how a process ended, from its exit code; negative codes are signals."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{', likely for lack of memory' if name == 'SIGKILL' else ''}"


def last_lines(log: Path, count: int, offset: int = 0) -> list[str]:
    """Return the last lines that a child wrote to its log after offset."""
    with log.open("rb") as stream:
        stream.seek(offset)
        return stream.read().decode(errors="replace").strip().splitlines()[-count:]
