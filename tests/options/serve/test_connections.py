"""Connections that say nothing, half a header or too much, and clients that do not read: a real
server ends them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import WAIT_S, Serving, first_line, serving

pytestmark = pytest.mark.slow  # as a group
STUB = ("model=stub", "tracking=none")
HEADER = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# 8 * 0.9 MB, more than the kernel's buffers hold
ECHO = {"prompt": "x" * 900_000, "echo": True, "stream": True, "n": 8}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that soon ends connections without a request."""
    with serving(
        tmp_path_factory.mktemp("hasty"), *STUB, "task.idle_timeout_s=1", "task.max_connections=20"
    ) as server:
        yield server


def connect(server: Serving, *, narrow: bool = False) -> socket.socket:
    client = socket.socket()
    if narrow:  # so that an unread answer stays with the server
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(WAIT_S)
    client.connect(("127.0.0.1", server.port))
    return client


def whole(body: bytes) -> bytes:
    return HEADER + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def is_ended(client: socket.socket) -> bool:
    """Read until the server closes the connection, or resets it."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def is_reset(client: socket.socket, data: bytes, size: int = 65536, pause_s: float = 0) -> bool:
    """Send data in pieces; return whether the server ends the connection before it has them all."""
    try:
        for first in range(0, len(data), size):
            client.sendall(data[first : first + size])
            time.sleep(pause_s)
    except OSError:
        return True
    return False


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sent", [b"", b"P", HEADER, HEADER + b"Content-Length: 1"], ids=["nothing", "P", "lines", "line"]
)
def test_a_connection_without_a_whole_header_is_closed(hasty: Serving, sent: bytes) -> None:
    with connect(hasty) as client:
        client.sendall(sent)
        assert client.recv(1) == b""
    with connect(hasty) as client:  # after a request, too
        client.sendall(whole(b'{"prompt": "x"}'))
        assert b" 200 " in first_line(client)
        client.sendall(sent)
        assert is_ended(client)


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(hasty: Serving) -> None:
    with connect(hasty) as client:
        assert is_reset(client, HEADER * 100, pause_s=0.05, size=1)


@pytest.mark.thorough
def test_a_silent_connection_gives_way_to_a_new_one(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.max_connections=20") as server:
        silent = [connect(server) for _ in range(60)]
        assert server.ask("/v1/completions", {"prompt": "x"})[0] == 200
        for client in silent[:40]:
            assert is_ended(client), "those that waited longest"
        for client in silent[45:]:
            client.sendall(whole(b'{"prompt": "x"}'))
            assert b" 200 " in first_line(client)
        for client in silent:
            client.close()


@pytest.mark.thorough
def test_connections_beyond_the_limit_are_answered_that_they_are_too_many(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.max_connections=3") as server:
        busy = [connect(server) for _ in range(3)]
        for client in busy:
            client.sendall(HEADER + b"Content-Length: 15\r\nExpect: 100-continue\r\n\r\n")
            assert b" 100 " in first_line(client), "its request is under way"
        status, answer = server.ask("/health")
        assert (status, answer["error"]["code"]) == (503, "too_many_connections")
        assert "The limit is 3 (task.max_connections)" in answer["error"]["message"]
        busy.pop().close()
        while server.ask("/health")[0] != 200:
            time.sleep(0.02)
        for client in busy:
            client.sendall(b'{"prompt": "x"}')
            assert first_line(client) == b"\r\n"
            assert b" 200 " in first_line(client)
            client.close()


@pytest.mark.thorough
def test_a_place_is_free_when_its_completion_is_complete_though_it_is_unread(tmp_path: Path) -> None:
    limits = ("task.max_open=8", "task.timeout_s=300", "task.write_timeout_s=300")
    with serving(tmp_path, *STUB, *limits) as server, connect(server, narrow=True) as client:
        client.sendall(whole(json.dumps(ECHO).encode()))
        assert b" 200 " in first_line(client)
        server.until(lambda now: now["runner_open"] == 0)
        assert server.ask("/v1/completions", {"prompt": "x", "n": 8})[0] == 200


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("limits", "is_stream"),
    [
        (("task.write_timeout_s=1",), True),
        (("task.write_timeout_s=1",), False),
        (("task.timeout_s=1", "task.write_timeout_s=300"), True),
    ],
    ids=["stream", "whole", "timeout"],
)
def test_a_client_that_does_not_read_is_disconnected(
    tmp_path: Path, limits: tuple[str, ...], is_stream: bool
) -> None:
    with serving(tmp_path, *STUB, *limits) as server, connect(server, narrow=True) as client:
        client.sendall(whole(json.dumps(ECHO | {"stream": is_stream}).encode()))
        assert b" 200 " in first_line(client)
        end = time.monotonic() + WAIT_S
        while not client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            assert time.monotonic() < end
            time.sleep(0.05)
        server.until(lambda now: now["runner_open"] == 0)
        assert "Traceback" not in server.err


@pytest.mark.thorough
def test_a_client_that_reads_slowly_gets_its_whole_answer(tmp_path: Path) -> None:
    with (
        serving(tmp_path, *STUB, "task.write_timeout_s=0.5") as server,
        connect(server, narrow=True) as client,
    ):
        client.sendall(whole(json.dumps(ECHO | {"n": 1}).encode()))
        text = b""
        for pause in [0.1] * 30 + [0.0] * 100_000:
            text += client.recv(4096)
            if text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                break
            time.sleep(pause)
        assert text.count(b"x") >= 900_000


@pytest.mark.thorough
def test_little_is_read_of_the_body_of_a_client_without_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, RUNNER_API_KEY="secret") as server:
        for size, is_more in ((60_000, False), (10_000_000, True)):
            with connect(server) as client:
                client.sendall(HEADER + f"Content-Length: {size}\r\n\r\n".encode())
                assert b" 401 " in first_line(client)
                assert is_reset(client, b" " * size) is is_more
        with connect(server) as client:
            client.sendall(HEADER + b"Transfer-Encoding: chunked\r\n\r\n")
            assert is_reset(client, (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 200)
