"""Runs uvicorn in its own thread; the main thread, which gets the signals, waits and ends it
gracefully."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import socket
import threading
from collections.abc import Callable

import uvicorn

from runner.config.root import RunnerConfig
from runner.options.serve.app import application
from runner.options.serve.connection import connection_of
from runner.options.serve.counters import Counters
from runner.options.serve.gateway import Gateway
from runner.options.serve.keys import ServeConfig
from runner_base import JobFailed, machine
from runner_engine import Driver, EngineReport

log = logging.getLogger(__name__)

LOG_EVERY = 30  # seconds between two log lines about new requests
ACCEPT_AT_ONCE = 256  # connections between two looks at how many there are
OTHER_FILES = 1024  # that may be open besides connections
TRIM_S = 5  # without a request, then freed memory is given back
CLOSING_S = 5  # time for connections to close after their answers


class Server:
    """Serves until `stop` is called, for example by a signal handler; a second call hurries it."""

    def __init__(
        self,
        config: RunnerConfig,
        task: ServeConfig,
        driver: Driver,
        report: EngineReport,
        template: str | None = None,
    ) -> None:
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.template = template
        self.counters = Counters()
        self._signals = 0
        self._problem: BaseException | None = None

    def stop(self) -> None:
        """Take no new requests, and end when the open ones have ended; called again, end now."""
        self._signals += 1

    def run(self, listener: socket.socket, key: str | None, ready: Callable[[], None]) -> None:
        """Serve, and return when everything has ended; JobFailed if the server or its engine
        broke."""
        _allow_files(self.task.max_connections + ACCEPT_AT_ONCE + OTHER_FILES)
        thread = threading.Thread(target=self._serve, args=(listener, key, ready), name="http", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)  # signals are handled here, between two waits
        if self.driver.failure is not None:
            raise self.driver.failure
        if self._problem is not None:
            raise JobFailed(f"the server broke: {self._problem}", code="failed") from self._problem

    def _serve(self, listener: socket.socket, key: str | None, ready: Callable[[], None]) -> None:
        try:
            asyncio.run(self._main(listener, key, ready))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._problem = error

    async def _main(self, listener: socket.socket, key: str | None, ready: Callable[[], None]) -> None:
        gateway = Gateway(self.config, self.task, self.driver, self.report, self.template)
        self.counters = gateway.counters
        settings = uvicorn.Config(
            application(gateway, key, self.task.host),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=math.ceil(self.task.idle_s),
            timeout_graceful_shutdown=CLOSING_S,
            server_header=False,
            http=connection_of(gateway.limits),
            proxy_headers=False,
            backlog=ACCEPT_AT_ONCE,
        )
        server = uvicorn.Server(settings)
        serving = asyncio.ensure_future(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        try:
            if server.started:
                ready()
                await self._watch(gateway)
        finally:
            server.should_exit = True
            await serving

    async def _watch(self, gateway: Gateway) -> None:
        """Wait for `stop`, then for open requests; log the progress."""
        logged, ticks, rest = (0, 0), 0, Rest(gateway)
        while not self._signals:
            await asyncio.sleep(0.1)
            ticks += 1
            if ticks % 10 == 0:
                gateway.counters.tick()
                await rest.look()
                if not self.driver.is_alive:
                    raise JobFailed("the engine has ended, see the log", code="failed")
            if ticks % (10 * LOG_EVERY) == 0:
                logged = _log_progress(gateway, logged)
        gateway.is_draining = True
        if not gateway.is_idle:
            log.info(
                "stopping: open answers have %g s to finish (a second signal ends them)", self.task.drain_s
            )
        deadline = gateway.loop.time() + self.task.drain_s
        while not gateway.is_idle and gateway.loop.time() < deadline and self._signals < 2:
            await asyncio.sleep(0.02)
        gateway.end_all()


class Rest:
    """Gives freed memory back to the system when a server comes to rest: each thread's allocations
    leave some in the C library."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.trimmed_at, self.idle_s = gateway, 0, 0

    async def look(self) -> None:
        """Look once a second whether requests were answered, and whether none is under way."""
        counters = self.gateway.counters
        self.idle_s = self.idle_s + 1 if self.gateway.is_idle else 0
        if self.idle_s >= TRIM_S and counters.requests != self.trimmed_at:
            self.trimmed_at = counters.requests
            await self.gateway.in_thread(machine.trim)


def _allow_files(wanted: int) -> None:
    """Raise the process's own limit of open files as far as the system lets it: each connection is
    one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _log_progress(gateway: Gateway, before: tuple[int, int]) -> tuple[int, int]:
    counters = gateway.counters
    now = counters.requests, counters.new_tokens
    if now != before:
        requests, tokens = now[0] - before[0], now[1] - before[1]
        log.info(
            "%d requests and %d new tokens in the last %d s · %d open · %.0f tok/s",
            requests,
            tokens,
            LOG_EVERY,
            gateway.open,
            counters.tok_per_s,
        )
    return now
