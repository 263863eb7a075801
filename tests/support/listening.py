"""Requests whose events a test listens to, or does not hear to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from runner.engines.base import Completion, Delta, Engine, Event, Request, complete


def told(engine: Engine, asked: Sequence[Request], on_text: Callable[[Delta], Any]) -> list[Completion]:
    """Ask for text as it comes, hand each piece over, and return the completions."""

    def listen(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delta):
                on_text(event)

    return complete(engine, [replace(request, deltas=True) for request in asked], listener=listen)


def first(engine: Engine, asked: Sequence[Request], count: int, batch_size: int | None = None) -> list[Completion]:
    """Return the completions of the steps until so many have ended; the rest is dropped."""
    left = count

    def listen(events: list[Event]) -> bool:
        nonlocal left
        left -= sum(isinstance(event, Completion) for event in events)
        return left > 0

    return complete(engine, asked, batch_size, listen)
