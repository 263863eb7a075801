"""Interface of engines for all tasks: open a session, submit requests, run steps and read events.

session.py defines sessions. `run_requests` steps a session until its requests have ended.
`complete_requests` is the shortest way from a list of requests to their completions.
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
    from runner_engine.sessions.arithmetic import ModelArithmetic


class Engine(Protocol):
    """A model that completes prompts.

    The model is loaded when a session is opened, or when `load` is called.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Features that the engine supports. They are known before the model is loaded."""

    @property
    def stats(self) -> EngineStats:
        """Statistics of the engine since it was created."""

    def load(self) -> EngineReport:
        """Load the model unless it is already loaded, and return its description."""

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Apply the chat template. Returns the resulting prompt and its token ids.

        The prompt is a text, or token ids if the request gives them.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids as text from the middle of a longer text, including special tokens."""

    def open(self, batch_size: int | None = None) -> Session:
        """Open a session.

        batch_size: maximum number of sequences; None uses the value of the config group generation.
        """

    def arithmetic(self) -> ModelArithmetic | None:
        """Return FLOP and bytes per token of the loaded model, or None if they are unknown."""

    def close(self) -> None:
        """Free the model's weights."""


Listener = Callable[[list[Event]], bool | None]


def run_requests(
    session: Session,
    requests: Iterable[Request],
    listener: Listener,
    max_active: Callable[[int], int] | None = None,
) -> None:
    """Submit requests and run steps until all requests end.

    The listener can return False to stop earlier.

    The listener receives the events of each step, also if there are none. It may submit
    further requests and cancel any. max_active: returns how many requests may be active
    after so many have ended, for a caller that may stop early; None submits all at once. A
    signal waits for the end of a step, after the listener has received its events.
    """
    remaining, submitted = deque(requests), 0
    with heap.skip_existing_objects_in_gc():
        while True:
            signals.raise_if_interrupt_dropped()
            with signals.defer_signals_until_step_ends():
                room = (
                    len(remaining)
                    if max_active is None
                    else max_active(submitted - session.num_active) - session.num_active
                )
                for _ in range(min(room, len(remaining))):
                    session.submit(remaining.popleft())
                    submitted += 1
                if session.is_idle or listener(session.step()) is False:
                    return


def complete_requests(
    engine: Engine,
    requests: Iterable[Request],
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> list[Completion]:
    done: list[Completion] = []

    def collect_completions(events: list[Event]) -> bool | None:
        done.extend(event for event in events if isinstance(event, Completion))
        return None if listener is None else listener(events)

    with engine.open(batch_size) as session:
        run_requests(session, requests, collect_completions)
    return done
