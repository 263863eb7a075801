"""The contract that every task is written against: open a session, submit requests, step, read the
events.

session.py defines sessions. `gather` steps one until its requests have ended; `complete` is the
shortest way from a list of requests to their completions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from runner_base import signals
from runner_engine.devices import heap
from runner_engine.sessions.base import Capability, Completion, EngineReport, Event, Request
from runner_engine.sessions.session import Session
from runner_engine.sessions.stats import EngineStats

if TYPE_CHECKING:
    from runner_engine.sessions.arithmetic import Arithmetic


class Engine(Protocol):
    """A model that completes prompts. It loads when a session is opened, or when `load` is
    called."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do; known before the model is loaded."""

    @property
    def stats(self) -> EngineStats:
        """Totals so far."""

    def load(self) -> EngineReport:
        """Load the model unless it is loaded, and report what was loaded."""

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that token ids have within a longer text, including special tokens."""

    def open(self, batch_size: int | None = None) -> Session:
        """Open a session; batch_size = most rows at once, None = that of the generation group."""

    def arithmetic(self) -> Arithmetic | None:
        """Return what the loaded model computes and reads per token; None: unknown."""

    def close(self) -> None:
        """Free the weights."""


Listener = Callable[[list[Event]], bool | None]


def gather(
    session: Session,
    requests: Iterable[Request],
    listener: Listener,
    ahead: Callable[[int], int] | None = None,
) -> None:
    """Submit requests and step the session until nothing is under way, or the listener answers
    False.

    The listener gets the events of each step, also when there are none. It may submit further
    requests and cancel any. `ahead` returns how many requests may be under way after so many have
    ended, for a caller that may stop early; None: all are submitted at once. A signal waits for the
    end of a step, whose events the listener has then got.
    """
    remaining, submitted = deque(requests), 0
    with heap.collecting_only_new():
        while True:
            signals.interrupt_if_dropped()
            with signals.finishing():
                room = (
                    len(remaining)
                    if ahead is None
                    else ahead(submitted - session.under_way) - session.under_way
                )
                for _ in range(min(room, len(remaining))):
                    session.submit(remaining.popleft())
                    submitted += 1
                if session.idle or listener(session.step()) is False:
                    return


def complete(
    engine: Engine,
    requests: Iterable[Request],
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> list[Completion]:
    """Run requests in their own session, and return their completions in the order in which they
    ended."""
    done: list[Completion] = []

    def listen(events: list[Event]) -> bool | None:
        done.extend(event for event in events if isinstance(event, Completion))
        return None if listener is None else listener(events)

    with engine.open(batch_size) as session:
        gather(session, requests, listen)
    return done
