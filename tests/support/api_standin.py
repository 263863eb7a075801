"""A server with OpenAI's API on 127.0.0.1: answers by rule, streams, lists models, and misbehaves on request."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from runner.options.remote.api_kind import _reports as reports
from runner.options.remote.server_probe import _probes as probes

Answer = Callable[[dict[str, Any]], str]
STALL_S = 600  # longer than any test waits, also on a busy machine


@dataclass
class Trouble:
    """A failure that one request gets instead of its answer."""

    # status | cut | reset | malformed | stall | html | endless | endless_line | no_usage |
    # error_event | odd | says | gzip_bomb | endless_body | comments
    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "boom"
    pieces: tuple[str, ...] = ()  # of says: the text in the pieces that are sent
    usage: Any = None  # of says: the counts


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request: its last message, or its prompt."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


class Api:
    """`with Api(answer) as api:` serves the model `tiny`; `troubles` happen to the next requests,
    in order."""

    def __init__(
        self, answer: Answer = lambda body: f"I heard {prompt_of(body)}", key: str | None = None
    ) -> None:
        self.answer, self.key = answer, key
        self.troubles: deque[Trouble] = deque()
        self.always: Trouble | None = None  # happens to every request
        self.seen: list[dict[str, Any]] = []  # bodies of the accepted requests
        self.answered: list[str] = []  # prompts of the completely answered requests
        self.gone = 0  # requests whose client left
        self.at_once = self.most_at_once = 0
        self.delay_s = 0.0  # between two pieces of an answer
        self.thinking: tuple[str, Answer] | None = None  # the field that has thinking, and the thinking
        # the budget that a request asks for
        self.budget_of: Callable[[dict[str, Any]], int | None] = lambda body: None
        self.counts_thinking = False
        # of a request without a stream: the tokens of its answer with their log-probabilities; None: refused
        self.scores: Callable[[str], list[tuple[str, float]]] | None = None
        self.has_logprobs = True
        self.prompt_tokens: Callable[[str], int] = lambda text: len(text.split())
        self.models: list[dict[str, Any]] | None = [
            {"id": "tiny", "object": "model", "root": "/models/tiny-v1", "max_model_len": 512}
        ]
        self.reports = "tiny-2026-11"
        self.connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self.go_on = threading.Event()

    def __enter__(self) -> Api:
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.list_models(self)

            def do_POST(self) -> None:
                api.complete(self)

            def setup(self) -> None:
                super().setup()
                api.connections.append(self.connection)

            def log_message(self, *_: object) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None: ...

        # the system gives ports again, and what the server before this one reported of its model is
        # kept for seconds
        reports.clear()
        probes.clear()
        self.server = Server(("127.0.0.1", getattr(self, "port", 0)), Handler)
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()

    def die(self) -> None:
        """End like a killed process: every connection breaks, and nobody listens any more."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)

    # -------------------------------------------------------------------------------------- answers

    def list_models(self, to: http.server.BaseHTTPRequestHandler) -> None:
        if self.refused(to):
            return
        if not to.path.endswith("/v1/models") or self.models is None:
            send(to, 404, {"error": {"message": f"no {to.path} here"}})
            return
        send(to, 200, {"object": "list", "data": self.models})

    def refused(self, to: http.server.BaseHTTPRequestHandler) -> bool:
        sent = to.headers.get("Authorization", "")
        if self.key is None or sent == f"Bearer {self.key}":
            return False
        send(
            to, 401, {"error": {"message": f"Incorrect API key provided: {sent}", "code": "invalid_api_key"}}
        )
        return True

    def complete(self, to: http.server.BaseHTTPRequestHandler) -> None:
        body: dict[str, Any] = json.loads(to.rfile.read(int(to.headers["Content-Length"])))
        if self.refused(to):
            return
        if "completions" not in to.path:
            send(to, 404, {"error": {"message": f"no {to.path} here"}})
            return
        if not body.get("stream"):
            self.answer_at_once(to, body)
            return
        with self._lock:
            self.seen.append(body)
            trouble = self.always or (self.troubles.popleft() if self.troubles else None)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if body["model"] not in [entry["id"] for entry in self.models or [{"id": body["model"]}]]:
                send(
                    to,
                    404,
                    {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}},
                )
            elif trouble is None:
                self.stream(to, body)
            else:
                self.misbehave(to, body, trouble)
        except OSError:
            with self._lock:
                self.gone += 1
        finally:
            with self._lock:
                self.at_once -= 1

    def answer_at_once(self, to: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        """Answer a request without a stream, as a probe of the server is."""
        if self.scores is None or ("logprobs" in body and not self.has_logprobs):
            send(to, 400, {"error": {"message": "only streams here"}})
            return
        tokens = self.scores(prompt_of(body))[: body["max_tokens"]]
        text = "".join(token for token, _ in tokens)
        scored = [{"token": token, "logprob": logprob} for token, logprob in tokens]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}, "logprobs": {"content": scored}}
        if "logprobs" not in body:
            del choice["logprobs"]
        usage = {"prompt_tokens": self.prompt_tokens(prompt_of(body)), "completion_tokens": len(tokens)}
        send(to, 200, {"model": self.reports, "choices": [choice], "usage": usage})

    def misbehave(
        self, to: http.server.BaseHTTPRequestHandler, body: dict[str, Any], trouble: Trouble
    ) -> None:
        match trouble.kind:
            case "status":
                send(to, trouble.status, {"error": {"message": trouble.message}}, trouble.headers)
            case "html":
                send(to, 200, "<html>It works!</html>", {"Content-Type": "text/html"})
            case "stall":
                begin(to)
                event(to, self.chunk(body, text="half"))
                self.go_on.wait()
                to.close_connection = True
            case "reset":
                begin(to)
                event(to, self.chunk(body, text="half"))
                to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                to.close_connection = True
            case "cut":
                begin(to)
                event(to, self.chunk(body, text="half of an ans"))
                to.close_connection = True
            case "malformed":
                begin(to)
                part(to, b'data: {"choices": [{"delta": {"content": "hal\n\n')
                part(to, b"")
            case "odd":
                begin(to)
                event(to, {"choices": [{"index": 7, "delta": None, "text": 5}]})
                part(to, b"")
            case "error_event":
                begin(to)
                event(to, {"error": {"message": trouble.message}})
                part(to, b"")
            case "endless":
                begin(to)
                while True:
                    event(to, self.chunk(body, text="and on and on " * 100))
            case "endless_line":
                begin(to)
                while True:
                    part(to, b"x" * 2**20)
            case "comments":
                begin(to)
                while not self.go_on.wait(0.02):
                    part(to, b": still here\n\n")
            case "says":
                begin(to)
                for piece in trouble.pieces:
                    event(to, self.chunk(body, text=piece))
                event(to, self.chunk(body, reason="stop"))
                event(to, self.chunk(body) | {"choices": [], "usage": trouble.usage})
                part(to, b"")
            case "gzip_bomb":
                data = gzip.compress(bytes(2**28), 1)  # one megabyte, 256 unpacked
                to.send_response(trouble.status)
                for name, value in {
                    "Type": "text/event-stream",
                    "Encoding": "gzip",
                    "Length": len(data),
                }.items():
                    to.send_header(f"Content-{name}", str(value))
                to.end_headers()
                to.wfile.write(data)
            case "endless_body":
                begin(to, trouble.status)
                while True:
                    part(to, b"no " * 2**18)
            case "no_usage":
                self.stream(to, body, usage=False)
            case other:
                raise AssertionError(other)

    def stream(
        self, to: http.server.BaseHTTPRequestHandler, body: dict[str, Any], usage: bool = True
    ) -> None:
        begin(to)
        text, limit = (self.answer(body), int(body.get("max_tokens") or body["max_completion_tokens"]))
        field, thought = ("", "") if self.thinking is None else (self.thinking[0], self.thinking[1](body))
        words = [(field, word) for word in re.findall(r" ?[^ ]+", thought)][: self.budget_of(body)]
        words += [
            ("content", word if number == 0 else f" {word}") for number, word in enumerate(text.split(" "))
        ]
        reason = "length" if len(words) > limit else "stop"
        pieces = words[:limit]
        for number in range(body.get("n", 1)):
            for name, piece in pieces:
                event(to, self.chunk(body, number, piece, name=name))
                self.pause()
            event(to, self.chunk(body, number, reason=reason))
        if usage:
            counts: dict[str, Any] = {
                "prompt_tokens": self.prompt_tokens(prompt_of(body)),
                "completion_tokens": len(pieces) * body.get("n", 1),
            }
            if self.counts_thinking:
                of_thinking = sum(name != "content" for name, _ in pieces) * body.get("n", 1)
                counts["completion_tokens_details"] = {"reasoning_tokens": of_thinking}
            event(to, self.chunk(body) | {"choices": [], "usage": counts})
        with self._lock:  # before the client can know that its answer is complete, and a test look here
            self.answered.append(prompt_of(body))
        part(to, b"data: [DONE]\n\n")
        part(to, b"")

    def pause(self) -> None:
        """Wait between two pieces of an answer."""
        time.sleep(self.delay_s)

    def chunk(
        self,
        body: dict[str, Any],
        number: int = 0,
        text: str = "",
        reason: str | None = None,
        name: str = "content",
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": reason}
        choice |= {"delta": {name: text}} if "messages" in body else {"text": text}
        return {"id": "x", "object": "chunk", "created": 1, "model": self.reports, "choices": [choice]}


def send(
    to: http.server.BaseHTTPRequestHandler, status: int, what: object, headers: dict[str, str] | None = None
) -> None:
    """Send an answer with one body."""
    data = (what if isinstance(what, str) else json.dumps(what)).encode()
    to.send_response(status)
    for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
        to.send_header(name, value)
    to.send_header("Content-Length", str(len(data)))
    to.end_headers()
    to.wfile.write(data)


def begin(to: http.server.BaseHTTPRequestHandler, status: int = 200) -> None:
    """Start a stream of events."""
    to.send_response(status)
    to.send_header("Content-Type", "text/event-stream")
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()


def part(to: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Send a part of a stream; an empty one ends it."""
    to.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    to.wfile.flush()


def event(to: http.server.BaseHTTPRequestHandler, what: object) -> None:
    """Send one event."""
    part(to, f"data: {json.dumps(what)}\n\n".encode())


@contextlib.contextmanager
def unreachable() -> Any:
    """The address of a port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but nobody listens
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
