"""Supervisor process that ends a server when the runner's process ends, even after kill -9.

Runs as a separate process, started by its path, and imports only the standard library. It
reads one line of JSON (command, environment, log, parent) from stdin. Further input, end of
input or the parent's death ends the server; a copy of the parent may keep the pipe open.
Orphaned children of the server become children of this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
POLL_S = 0.2
GRACE_S = 5.0  # for a server that is told to end
KILLED = 128  # plus the signal: how a shell reports it


def main() -> int:
    """Start the server, wait for its end or for a stop request, and return its exit code."""
    order = json.loads(sys.stdin.buffer.readline())
    parent: int = order["parent"]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def end_with_keeper() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(KILLED + signal.SIGTERM))
    with open(order["log"], "ab") as log:
        server = subprocess.Popen(
            order["command"],
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_keeper,
        )
    in_time = False
    try:
        while server.poll() is None and os.getppid() == parent:
            if select.select([sys.stdin], [], [], POLL_S)[0]:
                # an order, and not the end of a dead process
                in_time = bool(os.read(sys.stdin.fileno(), 1))
                break
        code = server.poll()
    finally:
        terminate_server(server, GRACE_S if in_time else 0.0)
    if code is None:
        return 0
    return KILLED - code if code < 0 else code


def terminate_server(server: subprocess.Popen[bytes], grace_period_s: float) -> None:
    """End the server process, its process group, and all other child processes."""
    if grace_period_s and server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace_period_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    while rest := list_child_processes():
        for process in rest:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(process, 0)
        time.sleep(0.01)  # their children become ours


def list_child_processes() -> list[int]:
    """Return the process ids of this process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(status.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
