"""Runs uvicorn in a thread, while the main thread receives signals and shuts the server down gracefully."""

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
from runner.options.serve.app import create_app
from runner.options.serve.connection import make_connection_class
from runner.options.serve.counters import ServerCounters
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
    """HTTP server that runs until `stop` is called. A second call of `stop` shortens the shutdown."""

    def __init__(
        self,
        config: RunnerConfig,
        task: ServeConfig,
        driver: Driver,
        report: EngineReport,
        chat_template: str | None = None,
    ) -> None:
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.template = chat_template
        self.counters = ServerCounters()
        self._signals = 0
        self._problem: BaseException | None = None

    def stop(self) -> None:
        """Finish running requests, then stop the server. A second call stops it immediately."""
        self._signals += 1

    def run(self, listening_socket: socket.socket, api_key: str | None, on_ready: Callable[[], None]) -> None:
        """Serve requests until the server is stopped. Raises JobFailed if the server or its engine fails."""
        _increase_open_file_limit(self.task.max_connections + ACCEPT_AT_ONCE + OTHER_FILES)
        thread = threading.Thread(
            target=self._run_event_loop, args=(listening_socket, api_key, on_ready), name="http", daemon=True
        )
        thread.start()
        while thread.is_alive():
            thread.join(0.1)  # signals are handled here, between two waits
        if self.driver.failure is not None:
            raise self.driver.failure
        if self._problem is not None:
            raise JobFailed(f"the server broke: {self._problem}", code="failed") from self._problem

    def _run_event_loop(
        self, listening_socket: socket.socket, api_key: str | None, on_ready: Callable[[], None]
    ) -> None:
        try:
            asyncio.run(self._run_uvicorn(listening_socket, api_key, on_ready))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._problem = error

    async def _run_uvicorn(
        self, listening_socket: socket.socket, api_key: str | None, on_ready: Callable[[], None]
    ) -> None:
        gateway = Gateway(self.config, self.task, self.driver, self.report, self.template)
        self.counters = gateway.counters
        settings = uvicorn.Config(
            create_app(gateway, api_key, self.task.host),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=math.ceil(self.task.idle_timeout_s),
            timeout_graceful_shutdown=CLOSING_S,
            server_header=False,
            http=make_connection_class(gateway.limits),
            proxy_headers=False,
            backlog=ACCEPT_AT_ONCE,
        )
        server = uvicorn.Server(settings)
        serving = asyncio.ensure_future(server.serve([listening_socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        try:
            if server.started:
                on_ready()
                await self._wait_for_shutdown(gateway)
        finally:
            server.should_exit = True
            await serving

    async def _wait_for_shutdown(self, gateway: Gateway) -> None:
        """Wait until the server was stopped and running requests have ended. Logs the progress."""
        logged, ticks, rest = (0, 0), 0, IdleMemoryTrimmer(gateway)
        while not self._signals:
            await asyncio.sleep(0.1)
            ticks += 1
            if ticks % 10 == 0:
                gateway.counters.record_token_rate()
                await rest.release_memory_if_idle()
                if not self.driver.is_alive:
                    raise JobFailed("the engine stopped: see the server's log", code="failed")
            if ticks % (10 * LOG_EVERY) == 0:
                logged = _log_progress(gateway, logged)
        gateway.is_draining = True
        if not gateway.is_idle:
            log.info(
                "shutting down: running requests have %g s to finish (a second signal cancels them)",
                self.task.drain_timeout_s,
            )
        deadline = gateway.loop.time() + self.task.drain_timeout_s
        while not gateway.is_idle and gateway.loop.time() < deadline and self._signals < 2:
            await asyncio.sleep(0.02)
        gateway.end_all_requests()


class IdleMemoryTrimmer:
    """Returns freed memory to the operating system while the server is idle.

    The C library otherwise keeps freed memory for each thread.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.trimmed_at, self.idle_s = gateway, 0, 0

    async def release_memory_if_idle(self) -> None:
        """Release freed memory if the server was idle for 5 s. Call this once a second."""
        counters = self.gateway.counters
        self.idle_s = self.idle_s + 1 if self.gateway.is_idle else 0
        if self.idle_s >= TRIM_S and counters.num_requests != self.trimmed_at:
            self.trimmed_at = counters.num_requests
            await self.gateway.run_in_thread(machine.release_free_memory)


def _increase_open_file_limit(num_files: int) -> None:
    """Raise the limit of open files to `num_files` if the hard limit allows it. Each connection needs one
    file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = num_files if hard == resource.RLIM_INFINITY else min(num_files, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _log_progress(gateway: Gateway, last_requests_and_tokens: tuple[int, int]) -> tuple[int, int]:
    counters = gateway.counters
    now = counters.num_requests, counters.new_tokens
    if now != last_requests_and_tokens:
        requests, tokens = now[0] - last_requests_and_tokens[0], now[1] - last_requests_and_tokens[1]
        log.info(
            "%d requests and %d new tokens in the last %d s · %d open · %.0f tok/s",
            requests,
            tokens,
            LOG_EVERY,
            gateway.num_open_completions,
            counters.tok_per_s,
        )
    return now
