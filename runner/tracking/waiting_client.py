"""MLflow's client of a database on a server: each call says what it waits for, and ends where
nothing answers.

A server may fall silent after it has answered the probe. The drivers of databases then wait without
a limit, and MLflow sets them none; a server that is stopped, and not gone, keeps its connections,
so that no limit of the network ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from runner.tracking.answering import SAY_AFTER_S, wait_for_answer

CALL_S = 60.0  # of a thousand metrics or runs, which take seconds
LONG_S = (
    600.0  # of files, which may be large and go to a store of their own, and of the tables of a new database
)
LONG = ("log_artifact", "log_dict", "download_artifacts")


def call(shown: str, function: Callable[[], Any], limit_s: float) -> Any:
    """Return what a function returns that asks a store, or raise TimeoutError; a signal ends a wait
    that was said."""
    answers: list[Any] = []
    in_context = copy_context()
    wait_for_answer(shown, lambda: answers.append(in_context.run(function)), limit_s, SAY_AFTER_S)
    return answers[0]


class WaitingClient:
    """MLflow's client, each of whose calls has a limit."""

    def __init__(self, make: Callable[[], Any], shown: str) -> None:
        self._shown = shown
        self._client = call(shown, make, LONG_S)  # it opens the database, and makes its tables

    def __getattr__(self, name: str) -> Any:
        """Return a method of the client, with a limit."""
        return partial(self._call, getattr(self._client, name), LONG_S if name in LONG else CALL_S)

    def _call(self, method: Callable[..., Any], limit_s: float, *arguments: Any, **named: Any) -> Any:
        return call(self._shown, partial(method, *arguments, **named), limit_s)
