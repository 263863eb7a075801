"""A server on 127.0.0.1 whose every byte a test decides, for answers that only a bad server would
send."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

Bytes = Iterator[bytes]
# from the body of a request to the bytes of the answer, with pauses
Attack = Callable[[dict[str, Any]], Bytes]

TEXT = "It is 7.\n#### 7"
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\nConnection: close\r\n"
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "max_model_len": 512}]}


class Hostile:
    """`with Hostile() as server:` lists the model `tiny`, and answers each completion with
    `attack`."""

    def __init__(self, attack: Attack | None = None, listing: Callable[[], Bytes] | None = None) -> None:
        self.attack = attack or sound
        self.listing = listing or (lambda: iter([whole(json.dumps(MODELS).encode())]))
        self.seen = 0  # the number of requested completions
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Hostile:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = client.makefile("rb")
            first = stream.readline()
            length = 0
            while (line := stream.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = stream.read(length)
            if first.startswith(b"GET"):
                pieces = self.listing()
            else:
                sent = json.loads(body)
                with self._lock:
                    self.seen += sent.get("stream") is not False  # a probe of the server is no question
                pieces = self.attack(sent)
            for piece in pieces:
                client.sendall(piece)
                if self.over.is_set():
                    return


def whole(
    body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK", more: bytes = b""
) -> bytes:
    """Return one answer with its true length."""
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n"
    return head % (status, kind, len(body), more) + body


def event(what: object) -> bytes:
    """Return one event of a stream; bytes are sent unchanged."""
    return b"data: " + (what if isinstance(what, bytes) else json.dumps(what).encode()) + b"\n\n"


def chunk(text: object = None, reason: object = None, index: object = 0, **keys: Any) -> dict[str, Any]:
    """Return one event of a chat."""
    choice = {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": reason}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [choice],
        **keys,
    }


def usage(prompt: object = 5, new: object = 3) -> dict[str, Any]:
    """Return the event with the token counts."""
    return chunk() | {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": new}}


def stream(*events: object) -> Bytes:
    """Yield a stream of these events and its end."""
    yield STREAM + b"\r\n"
    for one in events:
        yield event(one)
    yield event(b"[DONE]")


def sound(body: dict[str, Any]) -> Bytes:
    """Return the answer of a good server."""
    return stream(chunk(TEXT), chunk(None, "stop"), usage())


def drip(data: bytes, pause_s: float) -> Bytes:
    """Send byte by byte."""
    for number in range(len(data)):
        yield data[number : number + 1]
        time.sleep(pause_s)
