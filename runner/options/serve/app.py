"""The application: what each path does, and how errors become answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from runner.options.serve.answer_formats import ChatAnswer, TextAnswer
from runner.options.serve.answers import ClientAnswer, Stream
from runner.options.serve.bodies import ChatBody, GenerateBody, TextBody, TokenizeBody
from runner.options.serve.gateway import ClientRequest, Gateway
from runner.options.serve.guard import RequestGuard
from runner.options.serve.parsing import ParsedBody, parse_body
from runner.options.serve.refusals import ClientGone, Refusal, error_response
from runner.options.serve.render import openapi
from runner.options.serve.render.meanings import SUMMARIES
from runner.options.serve.render.openapi import post
from runner.options.serve.render.prometheus import prometheus
from runner.options.serve.shares import owner_of
from runner.options.serve.tokens import tokens_of
from runner_base import ConfigError
from runner_engine.settings.sampling import PARAMETERS

INPUTS = "\n    ".join(
    f'<label>{name} <input id="{name}" type="number" min="{one.low}" max="{one.high}" '
    f'step="{1 if one.kind is int else "any"}"></label>'
    for name, one in PARAMETERS.items()
)
PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8").replace("{{parameters}}", INPUTS)
SMALL_BODY = 16_384  # bytes; such a body is parsed within a millisecond


def application(gateway: Gateway, key: str | None, host: str) -> ASGIApp:
    """Return the application of a server at `host`; without a key, it answers only requests that
    name this machine."""
    app = FastAPI(
        title="runner task=serve",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # FastAPI's own pages load scripts from other sites
    )

    async def refuse(_: Request, error: Exception) -> Response:
        return error_response(_refusal(error))

    for kind in (Refusal, ConfigError, AnyHTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, refuse)
    page = HTMLResponse(PAGE.replace("{{model}}", escape(gateway.model)), headers=_page_headers(PAGE))
    limits = gateway.limits
    chat_example = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32, "temperature": 0.7}
    once = {"prompt": "Once upon a time"}

    @app.post("/v1/chat/completions", **post("/v1/chat/completions", ChatBody, limits, chat_example))
    async def chat(request: Request) -> Response:
        return await _answer(ChatAnswer(gateway, await _read_body(ChatBody, request, gateway)), request)

    text_example = once | {"max_tokens": 32, "stop": ["\n"]}

    @app.post("/v1/completions", **post("/v1/completions", TextBody, limits, text_example))
    async def complete(request: Request) -> Response:
        return await _answer(TextAnswer(gateway, await _read_body(TextBody, request, gateway)), request)

    @app.post("/generate", **post("/generate", GenerateBody, limits, once | {"max_new_tokens": 32}))
    async def generate(request: Request) -> Response:
        answer = TextAnswer(gateway, await _read_body(GenerateBody, request, gateway))
        with ClientRequest(gateway, owner_of(request.scope)) as client, _watched(request, client):
            text = await answer.text(client)
        return JSONResponse({"response": text})

    @app.post("/tokenize", **post("/tokenize", TokenizeBody, limits, once, waits=False))
    async def tokenize(request: Request) -> Response:
        data, content_type = await request.body(), request.headers.get("content-type", "")
        with ClientRequest(gateway, owner_of(request.scope)) as client:
            # it counts as a completion, so that a flood of long texts cannot delay other clients
            client.enter(1)
            answer = await gateway.in_thread(tokens_of, data, content_type, gateway)
        return Response(answer, media_type="application/json")

    @app.get("/v1/models", summary=SUMMARIES["/v1/models"])
    async def models() -> Response:
        names = (None, *gateway.adapters)
        return JSONResponse({"object": "list", "data": [_model(gateway, name) for name in names]})

    @app.get("/v1/models/{name:path}", include_in_schema=False)
    async def model(name: str) -> Response:
        gateway.check_model(name)
        return JSONResponse(_model(gateway, gateway.adapter(name)))

    @app.get("/health", summary=SUMMARIES["/health"])
    async def health() -> Response:
        state = "draining" if gateway.is_draining else "ok" if gateway.driver.is_ready else "broken"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics", summary=SUMMARIES["/metrics"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        gateway.counters.tick()
        text = prometheus(gateway.counters, gateway.engine.stats, gateway.open)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", summary=SUMMARIES["/docs"], response_class=HTMLResponse)
    async def docs() -> Response:
        return manual

    @app.get("/openapi.json", summary=SUMMARIES["/openapi.json"])
    async def machine_docs() -> Response:
        return JSONResponse(description)

    @app.get("/", summary=SUMMARIES["/"], response_class=HTMLResponse)
    async def show_page() -> Response:
        return page

    description = openapi.openapi(app, limits)
    manual = HTMLResponse(openapi.page(description), headers=_page_headers(openapi.PAGE))
    return RequestGuard(app, gateway, key, host)


async def _read_body(
    kind: type[ChatBody | TextBody | GenerateBody], request: Request, gateway: Gateway
) -> ParsedBody:
    """Read the body of a request, and parse a large one in another thread."""
    data, content_type = await request.body(), request.headers.get("content-type", "")
    if len(data) <= SMALL_BODY:
        return parse_body(kind, data, content_type, gateway)
    return await gateway.in_thread(parse_body, kind, data, content_type, gateway)


async def _answer(answer: ClientAnswer, request: Request) -> Response:
    """Return the whole answer, or a stream whose first event has come."""
    client = ClientRequest(answer.gateway, owner_of(request.scope))
    try:
        with _watched(request, client):
            if not answer.parsed.stream:
                whole = await answer.whole(client)
                client.close()
                return Response(whole, media_type="application/json")
            first = await answer.begin(client)
        return Stream(client, answer.stream(client, first))  # it closes the client's request
    except BaseException:
        client.close()
        raise


@contextmanager
def _watched(request: Request, client: ClientRequest) -> Iterator[None]:
    """End the wait within this block if the client disconnects."""
    disconnect = asyncio.ensure_future(request.receive())  # the next message, as the body is read
    disconnect.add_done_callback(lambda done: None if done.cancelled() else client.leave())
    try:
        yield
    finally:
        disconnect.cancel()


def _model(gateway: Gateway, adapter: str | None) -> dict[str, Any]:
    """Describe the base, or an adapter on it as vLLM does."""
    model = {
        "id": adapter or gateway.model,
        "object": "model",
        "created": gateway.created,
        "owned_by": "runner",
    }
    parent = {} if adapter is None else {"parent": gateway.model}
    return model | parent | gateway.limits.described_room


def _refusal(error: Exception) -> Refusal:
    """Turn the exception that ended a request into the refusal that the client gets."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ConfigError):
        return Refusal(400, str(error))
    if isinstance(error, ClientDisconnect):
        why = "the client has left while it sent its body"
        return ClientGone(ClientGone.STATUS, why)
    if not isinstance(error, AnyHTTPException):
        why = "the server has failed: see its log"
        return Refusal(500, why)
    paths = (
        "/v1/chat/completions, /v1/completions, /v1/models, /tokenize, "
        "/generate, /health, /metrics, /docs, /openapi.json and /"
    )
    why = {404: f"no such path: the paths are {paths}", 405: f"{error.detail}: the paths are {paths}"}.get(
        error.status_code, str(error.detail)
    )
    return Refusal(error.status_code, why)


def _page_headers(page: str) -> dict[str, str]:
    """Restrict the browser to the page's own script and style, and to requests to this server."""

    def sources(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
            for block in blocks
        )

    none = "'none'"
    policy = (
        f"default-src 'none'; script-src {sources('script') or none}; style-src {sources('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
