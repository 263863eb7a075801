"""Clients that leave, or request too much, too long or too many at once: a real server with narrow
limits."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from serving import FLOAT32, WAIT_S, Serving, first_line, serving
from starlette.types import Message

from runner.options.serve import request_guard
from runner.options.serve.keys import ServeConfig
from runner.options.serve.limits import ServerLimits

pytestmark = pytest.mark.slow  # as a group
LONG = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True}  # seconds of work
STUB = ("model=stub", "tracking=none")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ("task.max_open=8", "task.max_body_kib=16", "task.max_new_tokens=1000")
    with serving(tmp_path_factory.mktemp("small"), *FLOAT32, *limits, "tracking=none") as server:
        yield server


@pytest.mark.thorough
def test_a_client_that_leaves_frees_its_row_at_once(small: Serving) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900, "ignore_eos": True}
    bodies: dict[str, dict[str, Any]] = {"/v1/completions": LONG, "/v1/chat/completions": chat}
    for path, body in bodies.items():
        stream = small.open_stream(path, body)
        check_that_its_row_ends_first(small, lambda: close(stream))  # noqa: B023 - called at once
    whole = small.send("/v1/completions", LONG)
    small.until(lambda now: now["runner_rows_alive"] == 1)
    check_that_its_row_ends_first(small, whole.close)
    assert "Traceback" not in small.err


def check_that_its_row_ends_first(server: Serving, leave: Callable[[], None]) -> None:
    """Let a client leave; a second client's shorter answer would end first, had the first one's row
    gone on."""
    before = server.metrics()["runner_clients_left_total"]
    second = server.open_stream("/v1/completions", LONG | {"max_tokens": 800})
    server.until(lambda now: now["runner_rows_alive"] == 2)
    leave()
    names = "runner_clients_left_total", "runner_open", "runner_rows_alive"
    server.until(lambda now: [now[name] for name in names] == [before + 1, 1, 1])
    close(second)
    server.until(lambda now: [now[name] for name in names] == [before + 2, 0, 0])


def close(stream: http.client.HTTPConnection) -> None:
    stream.close()
    stream.answer.close()  # type: ignore[attr-defined]


def test_a_client_that_leaves_before_its_stream_begins_is_noticed_while_it_waits(tmp_path: Path) -> None:
    # one request at a time, and the first one takes longer than this test waits
    with (
        serving(tmp_path, *STUB, "model.delay_s=300") as server,
        server.send("/v1/completions", {"prompt": "x"}),
    ):
        server.until(lambda now: now["runner_open"] == 1)
        with server.send("/v1/completions", {"prompt": "y", "stream": True}):
            server.until(lambda now: now["runner_open"] == 2)
        server.until(lambda now: now["runner_open"] == 1)


@pytest.mark.thorough
def test_a_full_server_refuses_further_requests_for_a_while(small: Serving) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(small.ask, "/v1/completions", LONG) for _ in range(8)]
        small.until(lambda now: now["runner_open"] == 8)
        status, answer = small.ask("/v1/completions", {"prompt": "7"})
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "The limit is 8." in answer["error"]["message"]
        head = subprocess.run(
            ["curl", "-sSi", f"{small.url}/v1/completions", "-H", "Content-Type: application/json", "-d", '{"prompt": "7"}'],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert " 429 " in head.splitlines()[0]
        assert re.search(r"^retry-after: [1-9]\d*\r?$", head, re.MULTILINE)
    assert [future.result()[0] for future in answers] == [200] * 8


@pytest.mark.thorough
def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    several = LONG | {"n": 200}  # takes many seconds, but begins at once
    with serving(tmp_path, *FLOAT32, "task.timeout_s=2", "tracking=none") as server:
        status, answer = server.ask("/v1/completions", several)
        assert (status, answer["error"]["type"]) == (504, "server_error")
        assert "2 s (task.timeout_s)" in answer["error"]["message"]
        server.until(lambda now: now["runner_open"] == 0 and now["runner_rows_alive"] == 0)
        status, text = server.ask("/v1/completions", several | {"stream": True})
        assert status == 200
        last = text.split("\n\n")
        assert "task.timeout_s" in json.loads(last[-3].removeprefix("data: "))["error"]["message"]
        assert last[-2] == "data: [DONE]"


@pytest.mark.thorough
def test_bodies_that_are_too_large_are_not_read(small: Serving) -> None:
    status, answer = small.ask("/v1/completions", {"prompt": "x" * 20_000})
    assert (status, answer["error"]["message"]) == (
        413,
        "the request body is too large: the limit is 16 KiB (task.max_body_kib)",
    )
    with socket.create_connection(
        ("127.0.0.1", small.port), timeout=WAIT_S
    ) as endless:  # has no length and no end
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        endless.sendall(head.encode() + b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert b" 413 " in first_line(endless), "it is answered while the client is sending"
        with pytest.raises(OSError, match="reset|Broken pipe"):
            endless.sendall((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 8000)
    assert small.ask("/health")[0] == 200


def test_a_client_that_reads_only_after_sending_gets_the_answer_to_too_large_a_body(small: Serving) -> None:
    for headers in ({}, {"Transfer_Encoding": "chunked"}, {"Expect": "100-continue"}):
        status, answer = small.ask("/v1/completions", b" " * 10_000_000, **headers)
        assert (status, answer["error"]["type"]) == (413, "invalid_request_error")
    head = f"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10_000_000}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT_S) as client:
        client.sendall(head)
        assert b" 413 " in first_line(client), "before the first byte"
        client.sendall(b" " * 10_000_000)
        while client.recv(4096):
            pass  # a reset instead of a proper end is a ConnectionResetError here
    for path, status_in_line in (("/nothing", b" 404 "), ("/v1/completions", b" 403 ")):
        host = "evil.example" if status_in_line == b" 403 " else "localhost"
        with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT_S) as client:
            client.sendall(
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 16000\r\n\r\n".encode()
                + b" " * 16000
            )
            assert status_in_line in first_line(client)


def test_a_slow_body_is_refused_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds for the whole body, and not for each of its parts."""
    monkeypatch.setattr(request_guard, "BODY_S", 0.5)

    parts = 0

    async def drip() -> Message:
        nonlocal parts
        parts += 1
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def read() -> None:
        body = request_guard.LimitedBody(
            {"headers": [(b"content-length", b"1000")]}, drip, ServerLimits(ServeConfig())
        )
        while True:
            await body.receive()

    with pytest.raises(HTTPException, match="408"):
        asyncio.run(read())
    assert parts < 10


def test_prompts_that_are_too_long_are_refused_without_harm_to_others(small: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(
            small.ask, "/v1/completions", {"prompt": "7", "max_tokens": 30, "ignore_eos": True}
        )
        status, answer = small.ask("/v1/completions", {"prompt": [5] * 2000})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert good.result()[0] == 200
