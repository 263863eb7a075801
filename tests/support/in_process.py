"""The program's commands in this process: the same output on both streams and the same exit code,
without a start.

A start costs more than the command of most tests. For tests of the process itself (signals, kills,
stdin, imports, variables that libraries read at import), `warm_process` starts a real one.
"""

from __future__ import annotations

import importlib
import io
import json
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import warm_process
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from runner_base.console import StderrFilter
from runner_base.loggers import get_package_loggers
from runner_base.signals import ENDING

# Variables that are read when a command is called; others may have been read when a library was
# imported.
LATE = ("RUNNER_", "COLUMNS", "API_KEY", "MLFLOW_TRACKING_", "MLFLOW_EXPERIMENT_", "MLFLOW_HTTP_")
# Modules that cache what they read outside of the process.
REMEMBER = (
    "runner_engine.checkpoints", "runner.config.data_sets", "runner_base.machine", "runner.datasets", "runner.engines.kinds", "runner.options",
    "runner.records", "runner.tracking",
)  # fmt: skip
# Warnings that Python ignores by default.
IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@dataclass
class Finished:
    """A finished process."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Read the last line of stdout."""
        values: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return values


def run(
    module: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Call a command like `python -m MODULE ARGUMENTS`; return its exit code and output."""
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
    except BaseException:  # noqa: BLE001  # like the end of a program
        traceback.print_exc()
        return 1
    raise AssertionError("a command ends with SystemExit")


@contextmanager
def _as_at_the_start() -> Iterator[None]:
    """Give a command the state of a new process, and restore the old state afterwards."""
    root, own = logging.getLogger(), get_package_loggers()
    handlers, levels = [*root.handlers], (root.level, [logger.level for logger in own])
    old_handlers = {number: signal.getsignal(number) for number in ENDING}
    GlobalHydra.instance().clear()
    Plugins.instance()
    _forget()
    _close_databases()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(StderrFilter, "table_follows", False),
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
            for logger, level in zip(own, levels[1], strict=True):
                logger.setLevel(level)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)


def _forget() -> None:
    """Clear the caches of the program's modules, as in a new process: servers, files, open
    handles."""
    for name, module in [*sys.modules.items()]:
        if name.startswith(REMEMBER):
            for key, value in vars(module).items():
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()
                elif isinstance(value, dict) and re.match("_[a-z]", key):
                    value.clear()


def _close_databases() -> None:
    """Close the databases of earlier tests, whose files are gone: MLflow keeps each one open until
    the process ends."""
    store = sys.modules.get("mlflow.store.tracking.sqlalchemy_store")
    engines = {} if store is None else store.SqlAlchemyStore._engine_map
    for uri, engine in [*engines.items()]:
        if uri.startswith("sqlite:///") and not Path(engine.url.database or "").exists():
            engine.dispose()
            del engines[uri]
