"""Connections that say nothing, half a header or too much, and clients that do not read: a real server ends them."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import WAIT_S, Serving, first_line, serving

pytestmark = pytest.mark.slow  # as a group
STUB = ("model=stub", "tracking=none")
HEADER = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ECHO = {
    "prompt": "x" * 900_000,
    "echo": True,
    "stream": True,
    "n": 8,
}  # 8 * 0.9 MB, more than the kernel's buffers hold


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that soon ends connections without a request."""
    with serving(tmp_path_factory.mktemp("hasty"), *STUB, "task.idle_s=1", "task.max_connections=20") as server:
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
    with connect(hasty) as client, pytest.raises(OSError, match="reset|Broken pipe"):
        for byte in HEADER * 100:
            client.sendall(bytes([byte]))
            time.sleep(0.05)


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


def test_connections_beyond_the_limit_are_answered_that_they_are_too_many(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.max_connections=3", "model.delay_s=300") as server:
        busy = [server.send("/v1/completions", {"prompt": "x"}) for _ in range(2)]
        server.until(lambda now: now["runner_open"] == 2)
        busy.append(server.send("/v1/completions", {"prompt": "x"}))
        with ThreadPoolExecutor(1) as pool:
            status, answer = pool.submit(server.ask, "/health").result()
            while status == 200:  # the third one's request has not been read yet
                status, answer = pool.submit(server.ask, "/health").result()
        assert (status, answer["error"]["code"]) == (503, "too_many_connections")
        assert "3 at most (task.max_connections)" in answer["error"]["message"]
        for client in busy:
            client.close()
        while server.ask("/health")[0] != 200:
            time.sleep(0.02)


def test_a_place_is_free_when_its_completion_is_complete_though_it_is_unread(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.max_open=8", "task.timeout_s=300", "task.write_s=300") as server:
        with connect(server, narrow=True) as client:
            client.sendall(whole(json.dumps(ECHO).encode()))
            assert b" 200 " in first_line(client)
            server.until(lambda now: now["runner_open"] == 0)
            assert server.ask("/v1/completions", {"prompt": "x", "n": 8})[0] == 200


def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    for limits in (("task.write_s=1",), ("task.timeout_s=1", "task.write_s=300")):
        with serving(tmp_path / limits[0], *STUB, "task.max_open=8", *limits) as server:
            for is_stream in (True, False) if limits[0] == "task.write_s=1" else (True,):
                left = server.metrics()["runner_clients_left_total"]
                with connect(server, narrow=True) as client:
                    client.sendall(whole(json.dumps(ECHO | {"stream": is_stream}).encode()))
                    assert b" 200 " in first_line(client)
                    with pytest.raises(ConnectionResetError):  # what it has not read by then is lost
                        while server.metrics():
                            client.send(b"")
                            client.setblocking(False)
                            error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                            client.setblocking(True)
                            if error:
                                raise ConnectionResetError(error)
                            time.sleep(0.02)
                del left
            assert "Traceback" not in server.err


def test_a_client_that_reads_slowly_gets_its_whole_answer(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.write_s=0.5") as server, connect(server, narrow=True) as client:
        client.sendall(whole(json.dumps(ECHO | {"n": 1}).encode()))
        text = b""
        for pause in [0.1] * 30 + [0.0] * 100_000:
            text += client.recv(4096)
            if text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                break
            time.sleep(pause)
        assert text.count(b"x") >= 900_000


def test_little_is_read_of_the_body_of_a_client_without_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, RUNNER_API_KEY="secret") as server:
        for size, is_taken in ((60_000, True), (10_000_000, False)):
            with connect(server) as client:
                client.sendall(HEADER + f"Content-Length: {size}\r\n\r\n".encode())
                assert b" 401 " in first_line(client)
                try:
                    client.sendall(b" " * size)
                    is_ended(client)
                    was_taken = True
                except OSError as error:
                    assert re.search("reset|Broken pipe", str(error))
                    was_taken = False
                assert was_taken is is_taken
        endless = HEADER + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with connect(server) as client, pytest.raises(OSError, match="reset|Broken pipe"):
            client.sendall(endless)
            while True:
                client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
