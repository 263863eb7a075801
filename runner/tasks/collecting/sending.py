"""Sends requests to an engine. After an interrupt, reports how many answers are saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

from runner_base import signals
from runner_engine import Completion, Engine, Event, Request, RequestId, run_requests


class ExtraRequestSource(Protocol):
    """Interface of a source of extra requests, which are submitted while the job's own requests wait in
    the queue.
    """

    def next_extra_requests(self) -> list[Request]:
        """Return the extra requests to submit now. Their ids must differ from the ids of questions."""
        ...

    def on_extra_answer(self, *completions: Completion) -> None:
        """Process the answers to an extra request, once all of them are complete."""
        ...


def send_requests(
    engine: Engine,
    requests: list[Request],
    on_completions: Callable[..., bool | None],
    batch_size: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    max_in_flight: Callable[[int], int] | None = None,
    extra_source: ExtraRequestSource | None = None,
    on_interrupt: Callable[[list[Completion]], str] = lambda _: "",
    answered_requests: Sequence[Request] = (),
) -> None:
    """Send requests, and pass the completions of each request to `on_completions`.

    If `on_completions` returns False, the remaining requests are cancelled. Requests that earlier starts
    have answered are only mentioned to the session. At a signal, `on_interrupt` gets the unfinished
    completions and returns a message about them.
    """
    expected = {request.id: request.n for request in requests}
    arrived: dict[RequestId, list[Completion]] = {}
    of_beside: set[RequestId] = set()

    def submit_extra_requests() -> None:
        if extra_source is not None and engine.stats.rows_waiting:
            for request in extra_source.next_extra_requests():
                of_beside.add(request.id)
                expected[request.id] = request.n
                session.submit(request)

    def handle_events(events: list[Event]) -> bool:
        on_step()
        for event in events:
            if isinstance(event, Completion):
                choices = arrived.setdefault(event.id, [])
                choices.append(event)
                if len(choices) == expected[event.id]:
                    choices = sorted(arrived.pop(event.id), key=lambda completion: completion.choice)
                    if event.id in of_beside and extra_source is not None:
                        extra_source.on_extra_answer(*choices)
                    elif on_completions(*choices) is False:
                        return False
        submit_extra_requests()
        return True

    with engine.open(batch_size) as session:
        session.announce_prompts(answered_requests)
        try:
            run_requests(session, requests, handle_events, max_in_flight)
        except signals.BetweenSteps:
            choices = [*session.cancel_and_collect(), *chain(*arrived.values())]
            raise signals.Interrupted(
                on_interrupt([choice for choice in choices if choice.id not in of_beside])
            ) from None


@contextmanager
def report_saved_on_interrupt(saved_items: Sized, unit: str = "") -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise signals.Interrupted(
            ", ".join(filter(None, (f"{len(saved_items)}{unit} kept", str(stop))))
        ) from None
