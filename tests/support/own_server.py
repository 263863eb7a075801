"""Our own server in this process, for tests of clients against a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from job_engines import open_engine

from runner.config.root import RunnerConfig
from runner.options.serve.keys import ServeConfig
from runner.options.serve.server import Server
from runner_engine.sessions.driver import Driver

WAIT_S = 120


@contextmanager
def own_server(config: RunnerConfig, key: str | None = None) -> Iterator[str]:
    """Serve the model of a config; yields the address for clients."""
    task, ready = config.task, threading.Event()
    assert isinstance(task, ServeConfig)
    with socket.socket() as bound, Driver(open_engine(config)) as driver:
        bound.bind(("127.0.0.1", 0))
        bound.listen(128)
        server = Server(config, task, driver, driver.wait_until_loaded(WAIT_S))
        thread = threading.Thread(target=server.run, args=(bound, key, ready.set), daemon=True)
        thread.start()
        assert ready.wait(WAIT_S)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        finally:
            server.stop()
            thread.join(WAIT_S)
