"""The session of any engine: any thread submits and cancels, one thread steps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from runner.core.errors import ConfigError
from runner.engines.base import Capability, Completion, Event, Request, RequestId


class Session(ABC):
    """Requests on their way through an engine: keeps what was submitted until the next step takes it.

    An engine says how a request is admitted (in the thread that submits it, so that its errors reach who asked), what
    a step does, and what is to be dropped in the end.
    """

    def __init__(self, capabilities: frozenset[Capability]) -> None:
        self._capabilities = capabilities
        self._changed = threading.Condition()
        self._driving = threading.RLock()  # held during a step, so that closing waits for its end
        self._admitting: set[RequestId] = set()
        self._left: dict[RequestId, int] = {}  # completions that are still to come
        self._arrived: list[Any] = []  # as admitted
        self._cancelled: set[RequestId] = set()
        self._closed = False

    @abstractmethod
    def _admit(self, request: Request) -> Any:
        """Check and prepare a request; runs in the thread that submits it, at the same time as a step."""

    @abstractmethod
    def _advance(self, arrived: list[Any], cancelled: set[RequestId]) -> list[Event]:
        """Take in what has arrived, end what was cancelled, and do one unit of work."""

    @abstractmethod
    def _drop(self) -> None:
        """Let go of all that is under way."""

    def check(self) -> None:  # noqa: B027
        """Raise what has ended the engine, where it cannot go on."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._left

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return len(self._left)

    def submit(self, request: Request) -> None:
        """Let a request in, at any time; ConfigError where it cannot be served, or its id is under way already."""
        self.submit_all([request])

    def submit_all(self, requests: Sequence[Request]) -> None:
        """Let requests in that one step takes in together; none of them where one cannot be served."""
        for request in requests:
            missing = request.needs - self._capabilities
            if missing:
                words = ", ".join(sorted(missing))
                raise ConfigError(f"request {request.id} asks for {words}, which this engine does not offer")
        entering: set[RequestId] = set()
        with self._changed:
            self._check_open()
            for request in requests:
                if request.id in self._left or request.id in self._admitting or request.id in entering:
                    raise ConfigError(f"request {request.id} is under way already: give each request an id of its own")
                entering.add(request.id)
            self._admitting |= entering
        try:
            admitted = [self._admit(request) for request in requests]
            with self._changed:
                self._check_open()
                self._left |= {request.id: request.n for request in requests}
                self._arrived += admitted
                self._changed.notify_all()
        finally:
            with self._changed:
                self._admitting -= entering

    def cancel(self, request_id: RequestId) -> None:
        """End a request before the next forward pass; its completions say `cancelled`. Unknown ids are ignored."""
        with self._changed:
            if request_id in self._left:
                self._cancelled.add(request_id)

    def step(self) -> list[Event]:
        """Do one unit of work, such as a forward pass, in the calling thread; return what came of it."""
        with self._driving:
            with self._changed:
                arrived, self._arrived = self._arrived, []
                cancelled, self._cancelled = self._cancelled, set()
            if not self._left:
                return []
            events = self._advance(arrived, cancelled)
            for event in events:
                if isinstance(event, Completion):
                    with self._changed:
                        self._left[event.id] -= 1
                        if not self._left[event.id]:
                            del self._left[event.id]
                            self._cancelled.discard(event.id)  # too late, and a later request may bear the same id
            return events

    def wait(self, timeout: float | None = None) -> bool:
        """Block until something is under way, or the session is closed; return whether something is."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._closed, timeout)
            return bool(self._left)

    def close(self) -> None:
        """Drop what is under way, without events, after the step that is running; no request is let in from here on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._driving:
            self._drop()
            with self._changed:
                self._left, self._arrived, self._cancelled = {}, [], set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this session is closed: open another one")
