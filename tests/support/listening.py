"""Runs requests while a test listens to their events, or until some of them have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from runner_engine.sessions.base import Completion, Delta, Event, Request
from runner_engine.sessions.contract import Engine, complete_requests


def complete_with_deltas(
    engine: Engine, requests: Sequence[Request], on_text: Callable[[Delta], Any]
) -> list[Completion]:
    """Run requests with text deltas, pass each delta to `on_text`, and return the completions."""

    def listen(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delta):
                on_text(event)

    return complete_requests(engine, [replace(request, deltas=True) for request in requests], listener=listen)


def complete_first(
    engine: Engine, requests: Sequence[Request], count: int, batch_size: int | None = None
) -> list[Completion]:
    """Run steps until so many requests have ended, and return their completions; the rest is
    dropped."""
    open_requests = count

    def listen(events: list[Event]) -> bool:
        nonlocal open_requests
        open_requests -= sum(isinstance(event, Completion) for event in events)
        return open_requests > 0

    return complete_requests(engine, requests, batch_size, listen)
