"""Heavy bodies of every kind against a real server: it answers /health meanwhile within half a
second."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from serving import FLOAT32, WAIT_S, Serving, first_line, serving

pytestmark = pytest.mark.slow  # as a group

SOON_S, TRIES = 0.5, 3
TEXT, CHAT, TOKENS = "/v1/completions", "/v1/chat/completions", "/tokenize"
USER = {"role": "user", "content": "x"}
ROWS = "completions in one request: the limit is 256 (task.max_open)"
ROOM = "the model has room for 1024"
MOST = "tokens, but the limit is 1024"  # counted before they are read
BODIES: dict[str, tuple[str, Any, int, str]] = {
    "many prompts": (TEXT, {"prompt": ["a"] * 100_000, "max_tokens": 1}, 400, ROWS),
    "many prompts, the last one wrong": (TEXT, {"prompt": ["a"] * 100_000 + [5]}, 400, ROWS),
    "many prompts of ids": (TEXT, {"prompt": [[5]] * 150_000}, 400, ROWS),
    "many wrong prompts": (TEXT, {"prompt": [{}] * 250}, 400, "prompt.function-after"),
    "long prompts that fit": (TEXT, {"prompt": ["7 pens " * 200] * 100, "max_tokens": 1}, 200, ""),
    "one huge prompt": (TEXT, {"prompt": "Ann has 3 apples. " * 55_000}, 400, ROOM),
    "one huge word": (TEXT, {"prompt": "a" * 1_000_000}, 400, ROOM),
    "a huge prompt to score": (TEXT, {"prompt": "Ann has 3 " * 100_000, "echo": True, "logprobs": 5}, 400, MOST),
    "huge ids": (TEXT, {"prompt": [5] * 300_000}, 400, MOST),
    "huge wrong ids": (TEXT, {"prompt": [5] * 1000 + ["x"] * 200_000}, 400, MOST),
    "many messages": (CHAT, {"messages": [USER] * 28_000}, 400, "messages: 28000 messages exceed the limit"),
    "as many messages as are taken": (CHAT, {"messages": [USER] * 10_000}, 400, ROOM),
    "one huge message": (CHAT, {"messages": [USER | {"content": "Ann has 3 apples. " * 55_000}]}, 400, ROOM),
    "many parts": (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 25_000}]}, 400, ROOM),
    "many wrong parts": (CHAT, {"messages": [{"role": "user", "content": [5] * 300_000}]}, 400, "messages.0.content"),
    "many stop texts": (TEXT, {"prompt": "7", "stop": ["a"] * 200_000}, 400, "stop: give at most 16 non-empty strings"),
    "a huge stop text": (TEXT, {"prompt": "7", "stop": "a" * 1_000_000}, 400, "stop: a string has more than 1000 characters"),
    "a huge logit_bias": (TEXT, {"prompt": "7", "logit_bias": {str(n): 1 for n in range(80_000)}}, 400, "logit_bias"),
    "many alternatives": (CHAT, {"messages": [USER], "logprobs": True, "top_logprobs": 10**9}, 400, "must lie in 0..20"),
    "many choices": (TEXT, {"prompt": "7", "n": 10**9}, 400, ROWS),
    "a large answer": (
        TEXT, {"prompt": "7", "n": 48, "max_tokens": 64, "ignore_eos": True, "logprobs": 20, "temperature": 1}, 200, "",
    ),
    "a large stream": (
        CHAT, {"messages": [USER], "n": 48, "max_tokens": 64, "ignore_eos": True, "logprobs": True, "top_logprobs": 20,
               "stream": True}, 200, "",
    ),
    "tokens of a huge prompt": (TOKENS, {"prompt": "Ann has 3 apples. " * 55_000}, 200, ""),
    "tokens of many messages": (TOKENS, {"messages": [USER] * 28_000}, 400, "messages: 28000 messages exceed the limit"),
    "tokens of a huge message": (TOKENS, {"messages": [USER | {"content": "Ann has 3 " * 90_000}]}, 200, ""),
    "tokens of many wrong messages": (TOKENS, {"messages": [5] * 10_000}, 400, "messages.0"),
    "tokens of many prompts": (TOKENS, {"prompt": ["a"] * 100_000}, 400, "prompt"),
    "deep lists": (TEXT, b'{"prompt": ' + b"[" * 1_000_000, 400, "nested too deeply"),
    "deep objects": (TEXT, b'{"a":' * 200_000, 400, "nested too deeply"),
    "a number of many digits": (TEXT, b'{"prompt": "x", "seed": ' + b"9" * 1_000_000 + b"}", 400, "the request body is not readable JSON"),
    "a huge unknown name": (TEXT, {"prompt": "7", "a" * 1_000_000: 1}, 400, "no parameter 'aaa"),
    "many unknown names": (TEXT, {"prompt": "7"} | {f"temperatur{n}": 1 for n in range(40_000)}, 400, "no parameter 'temp"),
    "a huge model name": (TEXT, {"prompt": "7", "model": "a" * 1_000_000}, 404, "model 'aaa"),
    "a huge role": (CHAT, {"messages": [{"role": "a" * 1_000_000, "content": "x"}]}, 400, "no role 'aaa"),
    "metadata": (TEXT, {"prompt": "7", "max_tokens": 1, "metadata": {str(n): "x" for n in range(60_000)}}, 200, ""),
    "too much": (TEXT, {"prompt": "x" * 20_000_000}, 413, "1024 KiB (task.max_body_kib)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("heavy"), *FLOAT32, "tracking=none") as server:
        assert server.ask(CHAT, {"messages": [USER], "max_tokens": 1})[0] == 200
        yield server


T = TypeVar("T")


def in_good_health(server: Serving, act: Callable[[], T]) -> T:
    """Call `act` while another thread polls /health, and assert that each poll was answered soon.

    A fault of the server delays an answer in every try; other work on this machine may delay one in
    a single try.
    """
    for _ in range(TRIES):
        result, longest_s = with_health_polled(server, act)
        if longest_s < SOON_S:
            break
    assert longest_s < SOON_S, f"{longest_s:.2f} s"
    return result


def with_health_polled(server: Serving, act: Callable[[], T]) -> tuple[T, float]:
    """Return the result of `act`, and the longest time that /health took meanwhile.

    The server's CPU time is the limit of each time, so that a wait for a busy machine does not
    count.
    """
    times: list[float] = []
    over = threading.Event()

    def poll() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
        while not over.is_set():
            started, cpu_before = time.monotonic(), cpu_s(server)
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            times.append(min(time.monotonic() - started, cpu_s(server) - cpu_before))
            time.sleep(0.005)
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            result = act()
        finally:
            over.set()
        polling.result()
    return result, max(times)


def cpu_s(server: Serving) -> float:
    """Return the CPU time of all threads of a server so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", BODIES)
def test_a_heavy_body_stalls_nobody(server: Serving, case: str) -> None:
    path, body, expected, message = BODIES[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = in_good_health(server, lambda: server.ask(path, data))
    assert status == expected, answer
    if message:
        assert message in answer["error"]["message"]
        assert len(answer["error"]["message"]) < 3000, "the answer does not quote all of a huge body"


def send_in_pieces(server: Serving, pieces: Iterable[bytes], pause_s: float = 0.0) -> bytes:
    """Send a request piece by piece, and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(pause_s)
        return first_line(client)


@pytest.mark.thorough
def test_a_body_in_tiny_pieces_stalls_nobody(server: Serving) -> None:
    data = json.dumps({"prompt": "7 pens " * 20_000}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    assert b" 400 " in in_good_health(server, lambda: send_in_pieces(server, [head.encode() + pieces]))


@pytest.mark.thorough
def test_a_dripping_body_stalls_nobody(server: Serving) -> None:
    data = json.dumps({"prompt": "7", "max_tokens": 1}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    pieces = [head.encode(), *(bytes([byte]) for byte in data)]
    assert b" 200 " in in_good_health(server, lambda: send_in_pieces(server, pieces, 0.01))
