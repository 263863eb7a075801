"""A session for made-up engines of tests: a function answers the list of submitted requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runner_engine.sessions.base import Capability, Event, Request, RequestId
from runner_engine.sessions.session import Session


class ListSession(Session):
    """Answers one list of requests at a time with the function; requests that arrive meanwhile
    wait."""

    def __init__(
        self, capabilities: frozenset[Capability], run: Callable[[list[Request]], Iterator[list[Event]]]
    ) -> None:
        super().__init__(capabilities)
        self._run = run
        self._waiting: list[Request] = []
        self._running: Iterator[list[Event]] | None = None

    def _admit(self, request: Request) -> Request:
        return request

    def _run_step(self, submitted: list[Request], _cancelled: set[RequestId]) -> list[Event]:
        self._waiting += submitted
        if self._running is None:
            waiting, self._waiting = self._waiting, []
            self._running = self._run(waiting)
        events = next(self._running, None)
        if events is None:
            self._running = None
        return events or []

    def _drop_requests(self) -> None:
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]
            self._running = None
