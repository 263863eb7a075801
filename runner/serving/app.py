"""The application: what each path does, who is let in, and how errors are said."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.serving.answers import Answer, ChatAnswer, Stream, TextAnswer, error_response
from runner.serving.bodies import (
    ChatBody,
    GenerateBody,
    TextBody,
    asked_of_chat,
    asked_of_generate,
    asked_of_text,
)
from runner.serving.desk import Call, ClientGone, Desk, Refused

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
OPEN = ("/", "/health")  # what anybody may see: they tell nothing of what is asked and answered
COUNTED = ("/v1/chat/completions", "/v1/completions", "/generate")
BODY_S = 60.0  # in which a body must have come


def application(desk: Desk, key: str | None, host: str) -> ASGIApp:
    """Return the application of a server that listens at `host`; without a key, only who names this machine may ask."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages would load scripts from elsewhere

    async def refuse(_: Request, error: Exception) -> Response:
        return error_response(_refusal(error))

    for kind in (Refused, RequestValidationError, AnyHTTPException, Exception):
        app.add_exception_handler(kind, refuse)
    page = HTMLResponse(PAGE.replace("{{model}}", _escaped(desk.model)), headers=_page_headers())

    @app.get("/")
    async def show_page() -> Response:
        return page

    @app.get("/health")
    async def health() -> Response:
        state = "draining" if desk.is_draining else "ok" if desk.driver.is_ready else "broken"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        desk.counters.tick()
        text = desk.counters.prometheus(desk.engine.stats)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(desk)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        desk.check_model(name)
        return JSONResponse(_model(desk))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        return await _answer(ChatAnswer(desk, asked_of_chat(body, desk)), request)

    @app.post("/v1/completions")
    async def complete(body: TextBody, request: Request) -> Response:
        return await _answer(TextAnswer(desk, asked_of_text(body, desk)), request)

    @app.post("/generate")
    async def generate(body: GenerateBody, request: Request) -> Response:
        answer = TextAnswer(desk, asked_of_generate(body, desk))
        with Call(desk) as call, _watched(request, call):
            whole = await answer.whole(call)
        return JSONResponse({"response": whole["choices"][0]["text"]})

    return Gate(app, desk, key, host)


async def _answer(answer: Answer, request: Request) -> Response:
    """Return the whole answer, or a stream that has begun well."""
    call = Call(answer.desk)
    try:
        with _watched(request, call):
            if not answer.asked.stream:
                whole = await answer.whole(call)
                call.close()
                return JSONResponse(whole)
            first = await answer.begin(call)
        return Stream(call, answer.stream(call, first))  # which closes the call, and watches the client by itself
    except BaseException:
        call.close()
        raise


@contextmanager
def _watched(request: Request, call: Call) -> Iterator[None]:
    """End the wait within this block where the client goes."""
    gone = asyncio.ensure_future(request.receive())  # the body is read: what comes now is the end
    gone.add_done_callback(lambda done: None if done.cancelled() else call.leave())
    try:
        yield
    finally:
        gone.cancel()


def _model(desk: Desk) -> dict[str, Any]:
    room = {"max_model_len": int(desk.room)} if desk.room < 1e9 else {}
    return {"id": desk.model, "object": "model", "created": desk.created, "owned_by": "runner"} | room


def _refusal(error: Exception) -> Refused:
    """Turn what a request has ended in into words."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError):
        return _malformed(error)
    if not isinstance(error, AnyHTTPException):
        return Refused(500, "the server has failed: see its log")
    paths = "/v1/chat/completions, /v1/completions, /v1/models, /generate, /health, /metrics and /"
    words = {404: f"nothing is here: there are {paths}", 405: f"{error.detail}: the paths are {paths}"}
    return Refused(error.status_code, words.get(error.status_code, str(error.detail)))


def _malformed(error: RequestValidationError) -> Refused:
    """Say what is wrong with a body, by its first fault."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is no JSON: {first['ctx']['error']}")
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if not place:
        return Refused(400, "the body: give a JSON object, with Content-Type: application/json")
    return Refused(400, f"{place}: {first['msg']}", place.partition(".")[0])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _page_headers() -> dict[str, str]:
    """Have the browser run the page's own script and style, and nothing else; ask nobody but this server."""

    def sources(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(it.encode()).digest()).decode()}'" for it in blocks)

    policy = (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class Gate:
    """Stands before the application: asks for the key, limits the body, and counts what was answered."""

    def __init__(self, app: ASGIApp, desk: Desk, key: str | None, host: str) -> None:
        self.app, self.desk, self.key = app, desk, key
        self.names = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.lower()}]"}
        self.most_bytes = desk.task.max_body_kib * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        status, ended = 0, False

        async def count(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                ended = True
            await send(message)

        why_not = self._why_not(scope)
        try:
            if why_not is not None:
                await error_response(why_not)(scope, receive, count)
            else:
                await self.app(scope, self._limited(receive), count)
        finally:
            if path in COUNTED and ended and status != ClientGone.STATUS:
                self.desk.counters.answered(path, status, time.perf_counter() - started)
            elif path in COUNTED:
                self.desk.counters.left += 1

    def _why_not(self, scope: Scope) -> Refused | None:
        """Say why a request is refused by its head alone."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.key is None:
            name = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1").lower())
            if name not in self.names:  # a page of another site that has given its own name our address
                return Refused(403, f"without a key this server answers to its own name only, not to {name!r}")
        elif scope["path"] not in OPEN:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key.encode()):
                need = "send the header `Authorization: Bearer KEY` with the server's key"
                return Refused(401, f"the key is missing or wrong: {need}", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length[:20]) > self.most_bytes else None

    def _too_large(self) -> Refused:
        limit = f"{self.most_bytes // 1024} KiB (task.max_body_kib)"
        return Refused(413, f"the body is too large: this server takes {limit}")

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that ends a body that is too large or too slow."""
        size, is_whole = 0, False

        async def limited() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_S)
            except TimeoutError:
                raise HTTPException(408, f"the body has not come within {BODY_S:g} s") from None
            size += len(message.get("body", b""))
            if size > self.most_bytes:
                raise HTTPException(413, self._too_large().message)
            is_whole = not message.get("more_body")
            return message

        return limited
