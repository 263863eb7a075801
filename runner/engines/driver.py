"""One thread that steps a session for many: who submits a request hears of its events through a function of their own.

Servers and programs use it. A task that has a list of requests needs no thread: `gather` steps in its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self

from runner.core.errors import INTERRUPTED, ConfigError, JobFailed, RunnerError
from runner.engines.base import Completion, Engine, EngineReport, Event, Request, RequestId
from runner.engines.session import Session

log = logging.getLogger(__name__)

Listener = Callable[[Event | Exception], None]  # called in the driver's thread: it must be quick
CLOSED = "the engine takes no requests: it is closed, or not loaded yet"
EXIT_S = 60.0  # for an engine to end its pass, or its load, when the process exits
LOOK_S = 1.0  # how often a driver with nothing to do looks whether it is to end


class Driver:
    """Loads an engine and steps a session of it, in one thread; any thread submits and cancels."""

    def __init__(self, engine: Engine, batch_size: int | None = None) -> None:
        self.engine, self._batch_size = engine, batch_size
        self._session: Session | None = None
        self._changed = threading.Condition()
        self._listeners: dict[RequestId, Listener] = {}
        self._left: dict[RequestId, int] = {}  # completions that are still to come
        self._closing = False
        self.failure: RunnerError | None = None  # what has ended the engine for good
        self._loaded: Future[EngineReport] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        _living.add(self)
        self._thread.start()

    def loaded(self, timeout: float | None = None) -> EngineReport:
        """Wait until the engine is there, and return what it reports; raise what kept it from loading."""
        return self._loaded.result(timeout)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self._session is not None and not self._closing

    @property
    def is_alive(self) -> bool:
        """Whether its thread is still there."""
        return self._thread.is_alive()

    @property
    def under_way(self) -> int:
        """How many requests are on their way."""
        return len(self._left)

    def submit(self, request: Request, listener: Listener) -> None:
        """Let a request in; its events, or the error that ended it, go to the listener."""
        self.submit_all([request], listener)

    def submit_all(self, requests: Sequence[Request], listener: Listener) -> None:
        """Let requests in that one step takes in together: what comes of them does not depend on their timing."""
        session = self._session
        if session is None or self._closing:
            raise self.failure or JobFailed(CLOSED)
        with self._changed:
            for request in requests:
                if request.id in self._listeners:
                    raise ConfigError(f"request {request.id} is under way already: give each request an id of its own")
            for request in requests:
                self._listeners[request.id], self._left[request.id] = listener, request.n
        try:
            session.submit_all(requests)
        except BaseException as error:
            for request in requests:
                self._forget(request.id)
            if not self.is_ready and isinstance(error, ConfigError):  # it was closed meanwhile
                raise self.failure or JobFailed(CLOSED) from error
            raise

    def cancel(self, request_id: RequestId) -> None:
        """End a request before the next forward pass; its completions say `cancelled`."""
        if self._session is not None:
            self._session.cancel(request_id)

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is under way; return whether it came to that in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._left, timeout)

    def close(self, timeout: float | None = None) -> None:
        """End what is under way, let go of the engine, and wait for the thread."""
        self.stop()
        if self._session is not None:
            self._session.close()
        self._thread.join(timeout)

    def stop(self) -> None:
        """Let the thread end by itself, soon; it takes no lock, so that the garbage collector may call it."""
        self._closing = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            report = self.engine.load()
            self._session = self.engine.open(self._batch_size)
        except BaseException as error:  # noqa: BLE001 - who waits for the engine raises it
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(report)
        try:
            while not self._closing:  # no `gather`: that ends when nothing is under way, and this thread waits for more
                self._step(self._session)
            self._session.check()  # it may have come to its end by what makes us close it
            self._session.close()
        except RunnerError as error:
            self.failure, self._closing = error, True
            self._session.close()
        self._fail(self.failure or JobFailed("the engine was closed before the answer was complete"))
        self.engine.close()

    def _step(self, session: Session) -> None:
        """Take a step where there is something to do; raise where the engine cannot go on."""
        if not session.wait(LOOK_S):
            session.check()
            return
        try:
            events = session.step()
        except Exception as error:
            session.check()
            log.exception("a step of the engine failed: its requests are ended, and it goes on with new ones")
            session.close()
            self._fail(error)
            self._session = self.engine.open(self._batch_size)
            return
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        listener = self._listeners.get(event.id)
        if isinstance(event, Completion):
            with self._changed:
                self._left[event.id] -= 1
            if not self._left[event.id]:
                self._forget(event.id)
        if listener is not None:
            _call(listener, event)

    def _forget(self, request_id: RequestId) -> None:
        with self._changed:
            self._listeners.pop(request_id, None)
            self._left.pop(request_id, None)
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """Tell everybody whose request is under way that it has ended, and why."""
        for request_id, listener in list(self._listeners.items()):
            self._forget(request_id)
            _call(listener, error)


_living: weakref.WeakSet[Driver] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let no thread be cut off within a pass or an import when the process exits: that would abort it, or hang."""
    try:
        for driver in list(_living):
            driver.close(EXIT_S)
    except KeyboardInterrupt:  # who does not want to wait for it leaves at once
        os._exit(INTERRUPTED)


def _call(listener: Listener, event: Event | Exception) -> None:
    try:
        listener(event)
    except Exception:
        log.exception("who listens to request %s has failed: the others go on", getattr(event, "id", ""))
