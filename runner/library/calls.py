"""Submits the requests of a model call from Python, and collects their completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from runner.library.answers import Answer, Unanswered
from runner_engine import Completion, Delta, Driver, Event, Request, RequestId


class ModelCall:
    """Submits requests and collects their completions. Unfinished requests are cancelled when the
    `with` block ends.
    """

    def __init__(
        self, driver: Driver, requests: list[Request], put_event: Callable[[Event | Exception], None]
    ) -> None:
        self._driver, self._requests, self._put = driver, requests, put_event
        self._completions: dict[RequestId, list[Completion]] = {request.id: [] for request in requests}
        self._pending = sum(request.n for request in requests)

    def __enter__(self) -> Self:
        try:
            self._driver.submit_all(self._requests, self._put)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            if len(self._completions[request.id]) < request.n:
                self._driver.cancel(request.id)

    @property
    def is_finished(self) -> bool:
        return not self._pending

    def store_completion_or_get_text(self, event: Event | Exception) -> str:
        """Store a completion, or return the new text of a streaming event. Raises the exception that an
        engine has sent.
        """
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Delta):
            return "" if event.thinking else event.text
        self._completions[event.id].append(event)
        self._pending -= 1
        return ""

    def get_completions(self) -> list[list[Completion]]:
        """Return the completions of each request. Raises Unanswered if some requests failed."""
        completions = list(self._completions.values())
        errors = {
            at: completion.error
            for at, choices in enumerate(completions)
            for completion in choices
            if completion.error is not None
        }
        if not errors:
            return completions
        first, error = next(iter(errors.items()))
        several = f"{len(errors)} of {len(completions)} requests failed. Error of request {first}: {error}"
        answers = [
            None if at in errors else Answer.from_completions(choices)
            for at, choices in enumerate(completions)
        ]
        raise Unanswered(str(error) if len(completions) == 1 else several, answers)


def create_thread_safe_queue() -> tuple[
    asyncio.Queue[Event | Exception], Callable[[Event | Exception], None]
]:
    """Return a queue of the running event loop, and a function that puts events into it from any
    thread.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | Exception]()

    def put_from_thread(event: Event | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is waiting
            loop.call_soon_threadsafe(queue.put_nowait, event)

    return queue, put_from_thread
