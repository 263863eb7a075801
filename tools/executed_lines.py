"""A pytest plugin that records which lines each test executes (`pytest -p tools.executed_lines`).

EXECUTED_LINES names the folder for the records, a file for each worker: a line of JSON for each test with its id, its
seconds, and its lines by file. Needs Python 3.12 or newer. Processes that a test starts are not recorded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(f"{ROOT}/{name}/" for name in ("runner", "runner_engine", "runner_compare", "runner_base"))
TOOL = 4  # a free number between those of debuggers and profilers


class ExecutedLines:
    """Asks the interpreter for the first execution of each line since the last test."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w")
        self._lines: dict[str, set[int]] = {}
        self._watched: set[CodeType] = set()
        self._monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
        events = self._monitoring.events
        self._monitoring.use_tool_id(TOOL, "executed_lines")
        self._monitoring.register_callback(TOOL, events.PY_START, self._start_function)
        self._monitoring.register_callback(TOOL, events.LINE, self._note_line)
        self._monitoring.set_events(TOOL, events.PY_START)

    def _start_function(self, code: CodeType, _offset: int) -> object:
        if code.co_filename.startswith(PACKAGES) and code not in self._watched:
            self._watched.add(code)
            self._monitoring.set_local_events(TOOL, code, self._monitoring.events.LINE)
        return self._monitoring.DISABLE

    def _note_line(self, code: CodeType, line: int) -> object:
        self._lines.setdefault(code.co_filename, set()).add(line)
        return self._monitoring.DISABLE

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Write what a test has executed, its fixtures included."""
        self._lines.clear()
        self._monitoring.restart_events()
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            lines = {os.path.relpath(name, ROOT): sorted(numbers) for name, numbers in [*self._lines.items()]}
            print(
                json.dumps([item.nodeid, time.perf_counter() - started, lines]), file=self._file, flush=True
            )

    def pytest_unconfigure(self) -> None:
        """End the recording before the interpreter ends."""
        self._monitoring.free_tool_id(TOOL)
        self._file.close()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record."""
    folder = Path(os.environ["EXECUTED_LINES"])
    folder.mkdir(parents=True, exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    config.pluginmanager.register(ExecutedLines(folder / f"{worker}.jsonl"))
