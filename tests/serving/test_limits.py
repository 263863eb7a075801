"""Clients that leave, ask for too much, too long or too many at once: a real server with narrow limits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from serving import FLOAT32, Serving, serving
from starlette.types import Message

from runner.serving import guard

pytestmark = pytest.mark.slow  # as a group
LONG = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True}  # seconds of work
STUB = ("model=stub", "tracking=none")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ("task.max_open=8", "task.max_body_kib=16", "task.timeout_s=3", "task.max_new_tokens=1000")
    with serving(tmp_path_factory.mktemp("small"), *FLOAT32, *limits, "tracking=none") as server:
        yield server


def test_a_client_that_leaves_frees_its_row_at_once(small: Serving) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900, "ignore_eos": True}
    asked: dict[str, dict[str, Any]] = {"/v1/completions": LONG, "/v1/chat/completions": chat}
    for path, body in asked.items():
        before = small.metrics()["runner_clients_left_total"]
        connection = small.open_stream(path, body)
        small.until(lambda now: now["runner_rows_alive"] == 1)
        connection.close()
        connection.answer.close()  # type: ignore[attr-defined]
        started = time.monotonic()
        small.until(lambda now: now["runner_rows_alive"] == 0 and now["runner_open"] == 0)
        assert time.monotonic() - started < 1.5
        assert small.metrics()["runner_clients_left_total"] == before + 1
    with socket.create_connection(("127.0.0.1", small.port)) as whole:  # no stream: gone while the answer is awaited
        data = json.dumps(LONG).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        whole.sendall(head.encode() + data)
        small.until(lambda now: now["runner_rows_alive"] == 1)
    started = time.monotonic()
    small.until(lambda now: now["runner_rows_alive"] == 0 and now["runner_open"] == 0)
    assert time.monotonic() - started < 1.5
    assert "Traceback" not in small.err


def test_a_client_that_leaves_before_its_stream_begins_is_noticed_while_it_waits(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "model.delay_s=2") as server:  # one request at a time, two seconds each
        first = threading.Thread(target=server.ask, args=("/v1/completions", {"prompt": "x"}))
        first.start()
        server.until(lambda now: now["runner_open"] == 1)
        data = json.dumps({"prompt": "y", "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as second:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            second.sendall(head.encode() + data)
            server.until(lambda now: now["runner_open"] == 2)
        server.until(lambda now: now["runner_open"] == 1, within_s=1)
        first.join()


def test_beyond_its_room_a_server_sends_clients_away_for_a_while(small: Serving) -> None:
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda _: small.ask("/v1/completions", LONG | {"max_tokens": 100}), range(16)))
    assert {status for status, _ in done} == {200, 429}
    assert sum(status == 200 for status, _ in done) >= 8
    refused = next(answer for status, answer in done if status == 429)
    assert refused["error"]["code"] == "rate_limit_exceeded"
    assert "8 at most" in refused["error"]["message"]
    with ThreadPoolExecutor(8) as pool:
        open_ones = [pool.submit(small.ask, "/v1/completions", LONG) for _ in range(8)]
        small.until(lambda now: now["runner_open"] == 8)
        head = subprocess.run(
            ["curl", "-sSi", f"{small.url}/v1/completions", "-H", "Content-Type: application/json", "-d", '{"prompt": "7"}'],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert " 429 " in head.splitlines()[0]
        assert re.search(r"^retry-after: [1-9]\d*\r?$", head, re.MULTILINE)
        ended = [future.result() for future in open_ones]
    assert {status for status, _ in ended} <= {200, 504}


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    several = LONG | {"n": 8}
    with serving(tmp_path, *FLOAT32, "task.timeout_s=0.25", "tracking=none") as server:
        status, answer = server.ask("/v1/completions", several)
        assert (status, answer["error"]["type"]) == (504, "server_error")
        assert "0.25 s (task.timeout_s)" in answer["error"]["message"]
        server.until(lambda now: now["runner_open"] == 0 and now["runner_rows_alive"] == 0)
        status, text = server.ask("/v1/completions", several | {"stream": True})
        assert status == 200
        last = text.split("\n\n")
        assert "task.timeout_s" in json.loads(last[-3].removeprefix("data: "))["error"]["message"]
        assert last[-2] == "data: [DONE]"


def test_bodies_that_are_too_large_are_not_read(small: Serving) -> None:
    status, answer = small.ask("/v1/completions", {"prompt": "x" * 20_000})
    assert (status, answer["error"]["message"]) == (
        413,
        "the body is too large: this server takes 16 KiB (task.max_body_kib)",
    )
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as endless:  # says no length, and never ends
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        endless.sendall(head.encode() + b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert b" 413 " in endless.recv(4096).splitlines()[0], "it is answered while it goes on"
        with pytest.raises(OSError, match="reset|Broken pipe"):
            endless.sendall((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 8000)
    assert small.ask("/health")[0] == 200


def test_who_sends_all_before_it_reads_finds_the_answer_to_a_body_that_is_too_large(small: Serving) -> None:
    for headers in ({}, {"Transfer_Encoding": "chunked"}, {"Expect": "100-continue"}):
        status, answer = small.ask("/v1/completions", b" " * 10_000_000, **headers)
        assert (status, answer["error"]["type"]) == (413, "invalid_request_error")
    head = f"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10_000_000}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as client:
        client.sendall(head)
        assert b" 413 " in client.recv(4096).splitlines()[0], "before the first byte"
        client.sendall(b" " * 10_000_000)
        while client.recv(4096):  # the head and the text of an answer may come in two pieces
            pass  # a reset instead of an end in good order is a ConnectionResetError here
    for path, told in (("/nothing", b" 404 "), ("/v1/completions", b" 403 ")):
        host = "evil.example" if told == b" 403 " else "localhost"
        with socket.create_connection(("127.0.0.1", small.port), timeout=20) as client:
            client.sendall(
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 16000\r\n\r\n".encode() + b" " * 16000
            )
            assert told in client.recv(4096).splitlines()[0]


def test_a_body_that_drips_is_ended_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds for the whole body, and not for each of its parts."""
    monkeypatch.setattr(guard, "BODY_S", 0.5)

    parts = 0

    async def drip() -> Message:
        nonlocal parts
        parts += 1
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def read() -> None:
        body = guard.LimitedBody({"headers": [(b"content-length", b"1000")]}, drip, 1000)
        while True:
            await body.receive()

    with pytest.raises(HTTPException, match="408"):
        asyncio.run(read())
    assert parts < 10


def test_prompts_that_fill_the_room_are_refused_without_harm_to_others(small: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(small.ask, "/v1/completions", {"prompt": "7", "max_tokens": 30, "ignore_eos": True})
        status, answer = small.ask("/v1/completions", {"prompt": [5] * 2000})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert good.result()[0] == 200
