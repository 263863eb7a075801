"""Starts Python modules of this program in child processes, which end when the parent ends."""

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

from runner_base.known_secrets import untrusted_child_environment

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def start_python_child_process(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    should_inherit_secrets: bool = True,
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start Python in a child process with the same module search path as this process.

    A child that reads a model's output or a checkpoint must run with
    `should_inherit_secrets=False`: it gets no secret environment variables.
    """
    modules = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    own = os.environ if should_inherit_secrets else untrusted_child_environment()
    variables = {**own, **modules, **(environment or {})}
    return subprocess.Popen([sys.executable, "-P", *arguments], env=variables, **popen)


def send_pickled_input(process: subprocess.Popen[bytes], value: Any) -> None:
    """Write a pickled value to a child's stdin and close it.

    Nothing is raised if the child is dead: its exit code tells the reason.
    """
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(pickle.dumps(value))


def request_kill_when_parent_dies(parent_pid: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies. Exits if the parent is already dead."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        sys.exit(1)


def describe_exit_code(exit_code: int) -> str:
    """Describe how a process ended, from its exit code. Negative codes are signals."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}{', probably because memory ran out' if name == 'SIGKILL' else ''}"


def read_last_lines(log_file: Path, count: int, offset: int = 0) -> list[str]:
    """Return the last lines that a child wrote to its log after a byte offset."""
    with log_file.open("rb") as stream:
        stream.seek(offset)
        return stream.read().decode(errors="replace").strip().splitlines()[-count:]
