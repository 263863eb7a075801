"""Steps a session in a thread on behalf of many callers.

Sends the events of each request to its listener.

Servers and programs use it. A task with a list of requests needs no other thread and
calls `run_requests`.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self

from runner_base import INTERRUPTED, ConfigError, JobFailed, RunnerError
from runner_engine.sessions.base import EngineReport, Request, RequestId
from runner_engine.sessions.contract import Engine
from runner_engine.sessions.session import Listener, Session, notify_listener

log = logging.getLogger(__name__)

CLOSED = "the engine accepts no requests, because it is closed or not loaded yet"
EXIT_S = 60.0  # time for an engine to end its pass or its load when the process exits
IDLE_CHECK_S = 1.0  # how often an idle driver checks whether it should end


class Driver:
    """Loads an engine and steps its session in one thread.

    Any thread may submit and cancel requests.
    """

    def __init__(self, engine: Engine, batch_size: int | None = None) -> None:
        self.engine, self._batch_size = engine, batch_size
        self._session: Session | None = None
        # held while a session that has failed is replaced by a new one
        self._replacing = threading.Lock()
        self._closing = False
        self.failure: RunnerError | None = None  # the error that ended the engine
        self._loaded: Future[EngineReport] = Future()
        self._thread = threading.Thread(target=self._run_engine_thread, name="engine", daemon=True)
        _living.add(self)
        self._thread.start()

    def wait_until_loaded(self, timeout_s: float | None = None) -> EngineReport:
        """Wait until the engine is loaded, and return its report.

        Raises the error if loading failed.
        """
        return self._loaded.result(timeout_s)

    @property
    def is_ready(self) -> bool:
        """Whether the driver accepts requests."""
        return self._session is not None and not self._closing

    @property
    def is_alive(self) -> bool:
        """Whether the driver's thread is running."""
        return self._thread.is_alive()

    @property
    def num_active(self) -> int:
        return 0 if self._session is None else self._session.num_active

    def submit(self, request: Request, listener: Listener) -> None:
        self.submit_all([request], listener)

    def submit_all(self, requests: Sequence[Request], listener: Listener) -> None:
        """Submit requests so that the same step admits all of them.

        Then their answers do not depend on timing.
        """
        while True:
            with self._replacing:
                session = self._session
            if session is None or self._closing or not self.is_alive:
                raise self.failure or JobFailed(CLOSED, code="failed")
            try:
                session.submit_all(requests, listener)
                return
            except ConfigError:
                if not session.is_closed:  # else it has failed meanwhile, and there is another one
                    raise

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request before the next forward pass.

        Its completions have the finish reason `cancelled`.
        """
        if self._session is not None:
            self._session.cancel(request_id)

    def close(self, timeout_s: float | None = None) -> None:
        """End all requests, close the engine, and wait for the driver's thread."""
        self.stop()
        if self._session is not None:
            self._session.close()
        self._thread.join(timeout_s)

    def stop(self) -> None:
        """Tell the driver's thread to end soon.

        Takes no lock, so that the garbage collector may call this method.
        """
        self._closing = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_engine_thread(self) -> None:
        try:
            report = self.engine.load()
            self._session = self.engine.open(self._batch_size)
        except BaseException as error:  # noqa: BLE001 - `loaded` raises it
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(report)
        try:
            while not self._closing:  # not `gather`, which returns when nothing is under way
                self._step_session(self._session)
            self._session.check()  # the engine's failure may be why the driver is being closed
            self._session.close()
        except RunnerError as error:
            self.failure, self._closing = error, True
            self._session.close()
        reason = self.failure or JobFailed(
            "the engine was closed before it completed the answer", code="failed"
        )
        for listener in self._session.remove_listeners():
            notify_listener(listener, reason)
        self.engine.close()

    def _step_session(self, session: Session) -> None:
        """Step the session if requests are active.

        Raises an error if the engine cannot continue.
        """
        if not session.wait_for_requests(IDLE_CHECK_S):
            session.check()
            return
        try:
            session.step()
        except Exception as error:
            session.check()
            log.exception(
                "an engine step failed. Active requests end with an error. New requests are accepted"
            )
            with self._replacing:  # so that who is told can submit to the next session at once
                session.close()
                self._session = self.engine.open(self._batch_size)
            for listener in session.remove_listeners():
                notify_listener(listener, error)


_living: weakref.WeakSet[Driver] = weakref.WeakSet()


@atexit.register
def _close_all_drivers() -> None:
    """Wait for all drivers at exit.

    Ending a thread during a forward pass or an import would abort or hang.
    """
    try:
        for driver in list(_living):
            driver.close(EXIT_S)
    except KeyboardInterrupt:  # the user does not want to wait
        os._exit(INTERRUPTED)
