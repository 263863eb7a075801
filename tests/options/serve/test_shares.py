"""Clients that ask for much, leave amid a body, or say its length twice: the others are served all
the same."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import FLOAT32, Serving, first_line, serving

from runner.options.serve.client_shares import MOST_OF_ALL, OpenRequest, has_free_slots

MANY = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "n": 16}  # seconds of work


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ("task.max_open=16", "task.max_new_tokens=1000")
    with serving(tmp_path_factory.mktemp("shared"), *FLOAT32, *limits, "tracking=none") as ready:
        yield ready


def post_from(address: str, port: int, body: dict[str, Any]) -> tuple[int, Any]:
    """Ask for a completion from one of this machine's own addresses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200, source_address=(address, 0))
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.slow
def test_one_client_that_takes_all_places_locks_nobody_out(server: Serving) -> None:
    """Another address, another key, and a small request beside the large one get in; a second large
    one does not."""
    small = {"prompt": "7", "max_tokens": 2, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(post_from, "127.0.0.1", server.port, MANY)
        server.until(lambda now: now["runner_open"] == 16)
        begun = time.monotonic()
        statuses = [post_from("127.0.0.2", server.port, small)[0] for _ in range(20)]
        statuses += [
            server.ask("/v1/completions", small, Authorization=f"Bearer key-{number}")[0] for number in (1, 2)
        ]
        statuses += [post_from("127.0.0.1", server.port, small)[0] for _ in range(4)]
        took_s = time.monotonic() - begun
        assert server.metrics()["runner_open"] == 16, "the large request goes on meanwhile"
        assert statuses == [200] * 26
        status, answer = post_from("127.0.0.1", server.port, MANY)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        status, answer = post_from("127.0.0.2", server.port, small | {"n": 9})
        assert status == 429, "its share is 8 of 16"
        assert large.result()[0] == 200
        assert took_s < 100


def test_shares() -> None:
    full = [OpenRequest("a", 256)]
    assert has_free_slots(256, [], "a", 256), "alone, a client may have all"
    assert has_free_slots(256, full, "b", 128)
    assert not has_free_slots(256, full, "b", 129)
    assert has_free_slots(256, full, "a", 1), "its own small request"
    assert not has_free_slots(256, full, "a", 129)
    assert not has_free_slots(256, [OpenRequest("a", 1)] * 256, "a", 1), (
        "many small requests are as many places"
    )
    assert has_free_slots(256, [OpenRequest("a", 1)] * 256, "b", 1)
    assert has_free_slots(256, [OpenRequest("a", 0), OpenRequest("b", 100)], "b", 156), (
        "a complete answer that is being read has no place"
    )


def test_however_many_clients_come_there_is_an_end() -> None:
    held: list[OpenRequest] = []
    for number in range(10_000):
        owner, rows = f"client {number % 700}", 1 + number % 256
        if has_free_slots(256, held, owner, rows):
            held.append(OpenRequest(owner, rows))
    assert 256 < sum(one.places for one in held) <= MOST_OF_ALL * 256


@pytest.mark.thorough
@pytest.mark.slow
def test_a_client_that_leaves_amid_its_body_is_gone_and_not_a_failure(server: Serving) -> None:
    before = server.metrics()
    for path in ("/v1/completions", "/v1/chat/completions", "/generate"):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
            client.sendall(head.encode() + b'\r\n{"prompt": "On')
            time.sleep(0.2)
    left = "runner_clients_left_total"
    now = server.until(lambda now: now[left] == before[left] + 3)
    failed = [name for name in now if "500" in name and now[name] != before.get(name, 0)]
    assert failed == []
    assert "Traceback" not in server.err


@pytest.mark.slow
def test_a_body_with_two_lengths_is_refused_and_the_connection_closed(server: Serving) -> None:
    """Else what follows may be read as another request than a proxy before the server has read."""
    inner = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(head + inner)
        assert b" 400 " in first_line(client)
        rest = b""
        while part := client.recv(4096):
            rest += part
    assert b"Content-Length or Transfer-Encoding" in rest
    assert b"connection: close" in rest.lower()
    assert b"HTTP/1.1" not in rest, "the second request is not answered"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", [{"max_tokens": 0, "echo": True}, {"max_tokens": 2, "echo": True}, {"max_tokens": 2}]
)
def test_a_prompt_too_long_to_be_scored_is_the_clients_fault(server: Serving, body: dict[str, Any]) -> None:
    status, answer = server.ask(
        "/v1/completions", {"prompt": "Ann has 3 apples. " * 900, "logprobs": 1} | body
    )
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "7200 tokens" in answer["error"]["message"]
