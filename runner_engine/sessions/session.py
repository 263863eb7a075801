"""The session of any engine: any thread submits and cancels, one thread steps."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from runner_base import ConfigError
from runner_engine.sessions.base import Capability, Completion, Event, Request, RequestId, require

log = logging.getLogger(__name__)

# called in the thread that steps, so it must be quick
Listener = Callable[[Event | Exception], None]


STEPS_TO_STOP = 10  # a server's answers end a little after they are cancelled


class Session(ABC):
    """Requests under way in an engine: counts them, and keeps what was submitted until the next
    step takes it.

    A subclass defines how a request is admitted (in the thread that submits it, so that its errors
    are raised there), what a step does, and what is freed when the session closes.
    """

    def __init__(self, capabilities: frozenset[Capability]) -> None:
        self._capabilities = capabilities
        self._changed = threading.Condition()
        # locked during a step, so that `close` waits until it has ended
        self._driving = threading.RLock()
        self._admitting: set[RequestId] = set()
        self._left: dict[RequestId, int] = {}  # completions that are still to come
        self._listeners: dict[RequestId, Listener] = {}
        self._arrived: list[Any] = []  # the results of `_admit`
        self._cancelled: set[RequestId] = set()
        self._closed = False

    @abstractmethod
    def _admit(self, request: Request) -> Any:
        """Check and prepare a request; runs in the thread that submits it, while a step may be
        running."""

    @abstractmethod
    def _advance(self, arrived: list[Any], cancelled: set[RequestId]) -> list[Event]:
        """Add new requests, end cancelled ones, and do one unit of work."""

    @abstractmethod
    def _drop(self) -> None:
        """Free all that is under way."""

    def check(self) -> None:  # noqa: B027
        """Raise the error that has ended the engine, if there is one."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._left

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return len(self._left)

    def mention(self, requests: Sequence[Request]) -> None:  # noqa: B027
        """Let the prompts of requests that are answered already count where new ones look for
        shared beginnings.

        How keys and values are split changes the last bits of sums: so a resumed job gives the
        tokens of a whole one.
        """

    def submit(self, request: Request) -> None:
        """Submit a request, at any time; ConfigError if it cannot be served, or if its id is
        already under way."""
        self.submit_all([request])

    def submit_all(self, requests: Sequence[Request], listener: Listener | None = None) -> None:
        """Submit requests that enter in the same step; none of them if one cannot be served.

        The listener gets their events, which `step` returns, too.
        """
        for request in requests:
            require(self._capabilities, f"request {request.id}", request.needs)
        entering: set[RequestId] = set()
        with self._changed:
            self._check_open()
            for request in requests:
                if request.id in self._left or request.id in self._admitting or request.id in entering:
                    raise ConfigError(
                        f"request {request.id} is under way already: give each request an id of its own",
                        code="exists",
                    )
                entering.add(request.id)
            self._admitting |= entering
        try:
            admitted = [self._admit(request) for request in requests]
            with self._changed:
                self._check_open()
                self._left |= {request.id: request.n for request in requests}
                if listener is not None:
                    self._listeners |= dict.fromkeys(entering, listener)
                self._arrived += admitted
                self._changed.notify_all()
        finally:
            with self._changed:
                self._admitting -= entering
                self._cancelled -= entering - self._left.keys()

    def cancel(self, request_id: RequestId) -> None:
        """End a request before the next forward pass, as `cancelled`; unknown ids are ignored."""
        with self._changed:
            if request_id in self._left or request_id in self._admitting:
                self._cancelled.add(request_id)

    def is_cancelled(self, request_id: RequestId) -> bool:
        """Whether a request that is being admitted has been cancelled: then its preparation may
        end."""
        return request_id in self._cancelled

    def cancel_all(self) -> None:
        """End all requests before the next forward pass, as `cancelled`."""
        with self._changed:
            self._cancelled |= self._left.keys()

    def stop(self) -> list[Completion]:
        """Cancel all that is under way, and return it as it is."""
        self.cancel_all()
        ended: list[Completion] = []
        for _ in range(STEPS_TO_STOP):
            ended += [event for event in self.step() if isinstance(event, Completion)]
            if self.idle:
                break
        return ended

    def step(self) -> list[Event]:
        """Do one unit of work, such as a forward pass, in the calling thread; return its events."""
        with self._driving:
            with self._changed:
                arrived, self._arrived = self._arrived, []
                cancelled = self._cancelled - self._admitting
                self._cancelled &= self._admitting
            if not self._left:
                return []
            events = self._advance(arrived, cancelled)
            with self._changed:
                listeners = [self._listeners.get(event.id) for event in events]
                for event in events:
                    if isinstance(event, Completion):
                        self._count_down(event.id)
        for listener, event in zip(listeners, events, strict=True):
            if listener is not None:
                notify(listener, event)
        return events

    def _count_down(self, request_id: RequestId) -> None:
        self._left[request_id] -= 1
        if not self._left[request_id]:
            del self._left[request_id]
            self._listeners.pop(request_id, None)
            self._cancelled.discard(request_id)  # too late; a later request may have the same id

    def wait(self, timeout: float | None = None) -> bool:
        """Block until something is under way, or the session is closed; return whether something
        is."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._closed, timeout)
            return bool(self._left)

    def close(self) -> None:
        """Wait for the running step, and drop all that is under way, without events; refuse further
        requests.

        `take_listeners` returns those who then wait in vain.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._driving:
            self._drop()
            with self._changed:
                self._left, self._arrived, self._cancelled = {}, [], set()

    def take_listeners(self) -> list[Listener]:
        """Return the listeners of all requests that have not ended; they get no further events."""
        with self._changed:
            listeners, self._listeners = self._listeners, {}
        return [*listeners.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this session is closed: open another one", code="failed")


def notify(listener: Listener, event: Event | Exception) -> None:
    """Pass an event to a listener; its failure ends no other request."""
    try:
        listener(event)
    except Exception:
        log.exception("the listener of request %s has failed: the others continue", getattr(event, "id", ""))
