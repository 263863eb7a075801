"""Starts a real `runner task=serve` on this machine's loopback, like its users."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm_process

FLOAT32 = ("model.dtype=float32",)
WAIT_S = 200


@dataclass
class Serving:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str
    key: str | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def out(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err.txt").read_text()

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
        """Send JSON, or bytes unchanged; return the status and the answer, parsed if it is JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | {
            key.replace("_", "-"): value for key, value in headers.items()
        }
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text

    def metrics(self) -> dict[str, float]:
        """Read /metrics by name and labels."""
        status, text = self.ask("/metrics")
        assert status == 200
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def until(self, is_so: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Wait until a condition on /metrics holds, and return the metrics of that moment."""
        end = time.monotonic() + WAIT_S
        while not is_so(now := self.metrics()):
            assert time.monotonic() < end, now
            time.sleep(0.02)
        return now

    def open_stream(self, path: str, body: dict[str, Any]) -> http.client.HTTPConnection:
        """Start a stream and return its connection after the first byte has arrived."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body | {"stream": True}), headers)
        connection.answer = connection.getresponse()  # type: ignore[attr-defined]
        connection.answer.read(1)  # type: ignore[attr-defined]
        return connection

    def send(self, path: str, body: dict[str, Any]) -> socket.socket:
        """Send a request, and return the connection without waiting for the answer."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        client = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        client.sendall(head.encode() + data)
        return client

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to end it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


def first_line(client: socket.socket) -> bytes:
    """Return the first line of an answer, however many packets it comes in."""
    line = b""
    while not line.endswith(b"\r\n"):
        byte = client.recv(1)
        assert byte, f"the connection was closed after {line!r}"
        line += byte
    return line


@contextlib.contextmanager
def serving(folder: Path, *overrides: str, **environment: str) -> Iterator[Serving]:
    """Start a server in a folder and wait until it is ready; if it still runs at the end, it is
    killed."""
    folder.mkdir(parents=True, exist_ok=True)
    port = () if any(word.startswith("task.port") for word in overrides) else ("task.port=0",)
    command = [sys.executable, "-m", "runner", "task=serve", *port, *overrides]
    variables = {key: value for key, value in os.environ.items() if key != "RUNNER_API_KEY"} | environment
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        process = warm_process.popen(
            command, cwd=folder, stdout=out, stderr=err, env=variables, start_new_session=True
        )
    try:
        end = time.monotonic() + WAIT_S
        while not (
            match := re.search(r"^serving .* at (http://\S+?)[,;]? ", stderr_of(folder), re.MULTILINE)
        ):
            assert process.poll() is None, stderr_of(folder)
            assert time.monotonic() < end, stderr_of(folder)
            time.sleep(0.05)
        url = match[1].replace("0.0.0.0", "127.0.0.1")
        yield Serving(process, folder, url, environment.get("RUNNER_API_KEY"))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def stderr_of(folder: Path) -> str:
    return (folder / "err.txt").read_text()
