"""The program's commands in this process: the same words on both streams and the same exit code, without a start.

A start costs more than what most tests ask for. Where the process itself is meant (signals, kills, stdin, what is
imported, variables that libraries read while they are imported), `warm_process` starts a real one.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import warm_process
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from runner.config.hydra import adapt_plugins
from runner.core.console import ForPeople
from runner.core.signals import ENDING

# Variables that are read when a command is called; others may have been read when a library was imported.
LATE = ("RUNNER_", "COLUMNS", "API_KEY", "MLFLOW_TRACKING_", "MLFLOW_EXPERIMENT_", "MLFLOW_HTTP_")
# Modules that remember what they found outside of the process.
REMEMBER = (
    "runner.checkpoints", "runner.config.data_sets", "runner.core.machine", "runner.datasets", "runner.engines.kinds", "runner.store",
)  # fmt: skip
# What Python ignores unless it is told otherwise.
IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def run(module: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Call a command as `python -m MODULE ARGUMENTS` would; return its exit code and what it printed."""
    command = importlib.import_module("runner.__main__" if module == "runner" else module)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(_as_at_the_start())
        stack.enter_context(chdir(cwd))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(sys, "argv", [module, *arguments]))
        stack.enter_context(mock.patch.object(sys, "stdin", stack.enter_context(open(os.devnull))))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        code = _called(command)
    return code, _written(out), _written(err)


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def _called(command: object) -> int:
    try:
        command.entry()  # type: ignore[attr-defined]
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001  # as Python itself ends a program
        traceback.print_exc()
        return 1
    raise AssertionError("a command ends with SystemExit")


@contextmanager
def _as_at_the_start() -> Iterator[None]:
    """Give a command what it would find in a process of its own, and take back what it has set."""
    root, own = logging.getLogger(), logging.getLogger("runner")
    handlers, levels = [*root.handlers], (root.level, own.level)
    taken = {number: signal.getsignal(number) for number in ENDING}
    GlobalHydra.instance().clear()
    Plugins.instance()
    adapt_plugins()  # where Hydra found the other packages' plugins after ours, as on the path of tests
    _forget()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(ForPeople, "table_follows", False),
        mock.patch.object(subprocess, "Popen", warm_process.popen),  # for the workers of grids
        warnings.catch_warnings(),
    ):
        warnings.resetwarnings()
        for category in IGNORED:
            warnings.simplefilter("ignore", category)
        root.handlers[:] = []
        try:
            yield
        finally:
            GlobalHydra.instance().clear()
            root.handlers[:] = handlers
            root.setLevel(levels[0])
            own.setLevel(levels[1])
            for number, handler in taken.items():
                signal.signal(number, handler)


def _forget() -> None:
    """Let modules of the program ask again what a new process would ask: servers, files, what was opened."""
    for name, module in [*sys.modules.items()]:
        if name.startswith(REMEMBER):
            for key, value in vars(module).items():
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()
                elif isinstance(value, dict) and re.match("_[a-z]", key):
                    value.clear()
