"""Processes of the program that start warm: forked from one that has imported the libraries.

Importing torch, transformers and MLflow takes seconds, most of what a small job takes. A fork is a process of its own
with its own arguments, folder, output and exit code. Tests of other variables, of what is imported when, and of signals
start cold.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = ("torch", "transformers", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store")
MODULES = ("runner.run", "runner.report", "runner.grid.sweeper", "runner.grid.workers", "runner.compare.command")


class WarmStarter:
    """The process that everything is forked from; it is started by the first call."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(self, module: str, arguments: list[str], folder: Path, timeout_s: float) -> tuple[int, str, str]:
        """Run `python -m MODULE ARGUMENTS` in a folder; return its exit code and what it printed."""
        if self._server is None:
            command = [sys.executable, __file__]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            order = {"module": module, "arguments": arguments, "folder": str(folder), "timeout_s": timeout_s}
            streams = {"out": str(out), "err": str(err), "variables": dict(os.environ)}
            self._server.stdin.write(json.dumps(order | streams) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return code, out.read_text(), err.read_text()

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()


def serve() -> None:
    """Fork one process for each line on stdin, and answer with its exit code."""
    del sys.path[0]  # the folder of this file
    for name in (*LIBRARIES, *MODULES):
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy all of this memory
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(order: dict[str, Any]) -> NoReturn:
    """Turn this fork into `python -m MODULE ARGUMENTS`."""
    signal.alarm(int(order["timeout_s"]))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["variables"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["out"], os.O_WRONLY | os.O_CREAT),
        (2, order["err"], os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.path.insert(0, order["folder"])  # as -m does
    sys.argv = [order["module"], *order["arguments"]]
    code: Any = 0
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001  # as Python itself ends a program
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a program does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)  # without taking down every library: that takes two seconds


if __name__ == "__main__":
    serve()
