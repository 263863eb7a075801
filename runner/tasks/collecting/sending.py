"""Sends many requests to an engine, and says at an interrupt what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

from runner_base import signals
from runner_engine import Completion, Engine, Event, Request, RequestId, gather


class RequestsBeside(Protocol):
    """Further requests in the session of a job's questions, submitted while some of these wait for
    a place."""

    def due(self) -> list[Request]:
        """Return the requests whose turn has come; their ids differ from those of the questions."""
        ...

    def record(self, *completions: Completion) -> None:
        """Take all completions of such a request."""
        ...


def each_request(
    engine: Engine,
    requests: list[Request],
    listener: Callable[..., bool | None],
    batch_size: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    ahead: Callable[[int], int] | None = None,
    beside: RequestsBeside | None = None,
    on_stop: Callable[[list[Completion]], str] = lambda _: "",
    answered: Sequence[Request] = (),
) -> None:
    """Give the listener all completions of each request in order, once the last one has come; False
    ends the rest.

    Those that earlier starts have `answered` are only mentioned. When a signal comes, `on_stop`
    gets what is under way, and says what becomes of it.
    """
    expected = {request.id: request.n for request in requests}
    arrived: dict[RequestId, list[Completion]] = {}
    of_beside: set[RequestId] = set()

    def submit_beside() -> None:
        if beside is not None and engine.stats.rows_waiting:
            for request in beside.due():
                of_beside.add(request.id)
                expected[request.id] = request.n
                session.submit(request)

    def listen(events: list[Event]) -> bool:
        on_step()
        for event in events:
            if isinstance(event, Completion):
                choices = arrived.setdefault(event.id, [])
                choices.append(event)
                if len(choices) == expected[event.id]:
                    choices = sorted(arrived.pop(event.id), key=lambda completion: completion.choice)
                    if event.id in of_beside and beside is not None:
                        beside.record(*choices)
                    elif listener(*choices) is False:
                        return False
        submit_beside()
        return True

    with engine.open(batch_size) as session:
        session.mention(answered)
        try:
            gather(session, requests, listen, ahead)
        except signals.BetweenSteps:
            choices = [*session.stop(), *chain(*arrived.values())]
            raise signals.Interrupted(
                on_stop([choice for choice in choices if choice.id not in of_beside])
            ) from None


@contextmanager
def kept_words(done: Sized, what: str = "") -> Iterator[None]:
    """Let an interrupt in this block say how much is done, before it says what becomes of the
    rest."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise signals.Interrupted(", ".join(filter(None, (f"{len(done)}{what} kept", str(stop))))) from None
