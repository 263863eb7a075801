"""MLflow client for database servers, which limits the time of each call and reports long waits.

A server may fall silent after it has answered the probe. Database drivers then wait without a
limit, and MLflow sets none; a server that is stopped, and not gone, keeps its connections, so
that no limit of the network ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from runner.tracking.store_probes import SAY_AFTER_S, run_probe_with_limit

CALL_S = 60.0  # of a thousand metrics or runs, which take seconds
LONG_S = (
    600.0  # of files, which may be large and go to a store of their own, and of the tables of a new database
)
LONG = ("log_artifact", "log_dict", "download_artifacts")


def call_with_time_limit(store_name: str, query_store: Callable[[], Any], limit_s: float) -> Any:
    """Call a function that queries a store. Raises TimeoutError after `limit_s` seconds.

    Long waits are reported, and a signal interrupts them.
    """
    answers: list[Any] = []
    in_context = copy_context()
    run_probe_with_limit(
        store_name, lambda: answers.append(in_context.run(query_store)), limit_s, SAY_AFTER_S
    )
    return answers[0]


class WaitingClient:
    """MLflow client with a time limit for each method call."""

    def __init__(self, create_client: Callable[[], Any], store_name: str) -> None:
        self._shown = store_name
        # it opens the database, and makes its tables
        self._client = call_with_time_limit(store_name, create_client, LONG_S)

    def __getattr__(self, name: str) -> Any:
        """Return an MLflow client method with a time limit."""
        return partial(self._call_with_limit, getattr(self._client, name), LONG_S if name in LONG else CALL_S)

    def _call_with_limit(
        self, method: Callable[..., Any], limit_s: float, *arguments: Any, **named: Any
    ) -> Any:
        return call_with_time_limit(self._shown, partial(method, *arguments, **named), limit_s)
