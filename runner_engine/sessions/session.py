"""Base class of sessions. Any thread can submit and cancel requests, but only one thread runs steps."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from runner_base import ConfigError
from runner_engine.sessions.base import (
    Capability,
    Completion,
    Event,
    Request,
    RequestId,
    require_capabilities,
)

log = logging.getLogger(__name__)

# called in the thread that steps, so it must be quick
Listener = Callable[[Event | Exception], None]


STEPS_TO_STOP = 10  # a server's answers end a little after they are cancelled


class Session(ABC):
    """Counts active requests, and queues submitted requests until the next step.

    A subclass defines how a request is admitted (in the submitting thread, so that errors are
    raised there), what a step does, and what is freed when the session closes.
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
        """Validate and prepare a request.

        Runs in the submitting thread, possibly during a step.
        """

    @abstractmethod
    def _run_step(self, submitted: list[Any], cancelled: set[RequestId]) -> list[Event]:
        """Admit new requests, end cancelled requests, and run one step, for example a forward pass."""

    @abstractmethod
    def _drop_requests(self) -> None:
        """Free all active requests of the session."""

    def check(self) -> None:  # noqa: B027
        """Raise the error that ended the engine, if there was one."""

    @property
    def is_idle(self) -> bool:
        return not self._left

    @property
    def is_closed(self) -> bool:
        """Whether the session is closed, so that it accepts no more requests."""
        return self._closed

    @property
    def num_active(self) -> int:
        return len(self._left)

    def announce_prompts(self, requests: Sequence[Request]) -> None:  # noqa: B027
        """Tell the session about already answered prompts, so that new requests share prefixes with them.

        How keys and values are split changes the last bits of sums. So a resumed job gives the
        same tokens as an uninterrupted one.
        """

    def submit(self, request: Request) -> None:
        """Submit a request at any time.

        Raises ConfigError if the request cannot be served or its id is active.
        """
        self.submit_all([request])

    def submit_all(self, requests: Sequence[Request], listener: Listener | None = None) -> None:
        """Submit requests together for the same step.

        Submits nothing if the engine cannot serve one of them.

        The listener also receives their events, which `step` returns.
        """
        for request in requests:
            require_capabilities(self._capabilities, f"request {request.id}", request.required_capabilities)
        entering: set[RequestId] = set()
        with self._changed:
            self._raise_if_closed()
            for request in requests:
                if request.id in self._left or request.id in self._admitting or request.id in entering:
                    raise ConfigError(
                        f"request {request.id} is already active. Give each request a unique id",
                        code="exists",
                    )
                entering.add(request.id)
            self._admitting |= entering
        try:
            admitted = [self._admit(request) for request in requests]
            with self._changed:
                self._raise_if_closed()
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
        """End a request as `cancelled` before the next forward pass.

        Unknown request ids are ignored.
        """
        with self._changed:
            if request_id in self._left or request_id in self._admitting:
                self._cancelled.add(request_id)

    def is_cancelled(self, request_id: RequestId) -> bool:
        """Whether a request was cancelled, so that its preparation can stop early."""
        return request_id in self._cancelled

    def cancel_all(self) -> None:
        with self._changed:
            self._cancelled |= self._left.keys()

    def cancel_and_collect(self) -> list[Completion]:
        """Cancel all active requests and return their partial completions."""
        self.cancel_all()
        ended: list[Completion] = []
        for _ in range(STEPS_TO_STOP):
            ended += [event for event in self.step() if isinstance(event, Completion)]
            if self.is_idle:
                break
        return ended

    def step(self) -> list[Event]:
        """Run one step, for example a forward pass, in the calling thread.

        Returns the new events.
        """
        with self._driving:
            with self._changed:
                arrived, self._arrived = self._arrived, []
                cancelled = self._cancelled - self._admitting
                self._cancelled &= self._admitting
            if not self._left:
                return []
            events = self._run_step(arrived, cancelled)
            with self._changed:
                listeners = [self._listeners.get(event.id) for event in events]
                for event in events:
                    if isinstance(event, Completion):
                        self._count_completed_request(event.id)
        for listener, event in zip(listeners, events, strict=True):
            if listener is not None:
                notify_listener(listener, event)
        return events

    def _count_completed_request(self, request_id: RequestId) -> None:
        self._left[request_id] -= 1
        if not self._left[request_id]:
            del self._left[request_id]
            self._listeners.pop(request_id, None)
            self._cancelled.discard(request_id)  # too late; a later request may have the same id

    def wait_for_requests(self, timeout_s: float | None = None) -> bool:
        """Block until a request is active or the session is closed.

        Returns whether a request is active.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._closed, timeout_s)
            return bool(self._left)

    def close(self) -> None:
        """Close the session after the current step.

        Drops all requests without events, and rejects new requests. `remove_listeners` returns the
        listeners of the dropped requests.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._driving:
            self._drop_requests()
            with self._changed:
                self._left, self._arrived, self._cancelled = {}, [], set()

    def remove_listeners(self) -> list[Listener]:
        """Remove and return the listeners of all unfinished requests.

        They receive no further events.
        """
        with self._changed:
            listeners, self._listeners = self._listeners, {}
        return [*listeners.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ConfigError("this session is closed. Open a new session", code="failed")


def notify_listener(listener: Listener, event: Event | Exception) -> None:
    """Pass an event to a listener.

    Exceptions of the listener are logged and do not affect other requests.
    """
    try:
        listener(event)
    except Exception:
        log.exception("the listener of request %s failed. Other requests continue", getattr(event, "id", ""))
