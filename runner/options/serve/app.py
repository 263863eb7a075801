"""ASGI application of the server: handlers of HTTP paths, and conversion of errors to responses."""

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

from runner.options.serve.answer_formats import ChatResponse, TextResponse
from runner.options.serve.bodies import ChatBody, GenerateBody, TextBody, TokenizeBody
from runner.options.serve.client_response import CancellingStream, ClientResponse
from runner.options.serve.client_shares import get_client_id
from runner.options.serve.gateway import ClientRequest, Gateway
from runner.options.serve.refusals import ClientDisconnected, Refusal, make_error_response
from runner.options.serve.render import openapi
from runner.options.serve.render.openapi import build_openapi_post_operation
from runner.options.serve.render.openapi_texts import SUMMARIES
from runner.options.serve.render.prometheus import format_prometheus_metrics
from runner.options.serve.request_guard import RequestGuard
from runner.options.serve.request_parsing import ParsedBody, parse_request_body
from runner.options.serve.tokenize_endpoint import tokenize_request
from runner_base import ConfigError
from runner_engine.settings.sampling import PARAMETERS

INPUTS = "\n    ".join(
    f'<label>{name} <input id="{name}" type="number" min="{one.low}" max="{one.high}" '
    f'step="{1 if one.kind is int else "any"}"></label>'
    for name, one in PARAMETERS.items()
)
PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8").replace("{{parameters}}", INPUTS)
SMALL_BODY = 16_384  # bytes; such a body is parsed within a millisecond


def create_app(gateway: Gateway, api_key: str | None, host: str) -> ASGIApp:
    """Return the server's ASGI application. Without an API key, it only accepts requests to this
    machine's own host name.
    """
    app = FastAPI(
        title="runner task=serve",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # FastAPI's own pages load scripts from other sites
    )

    async def refuse(_: Request, error: Exception) -> Response:
        return make_error_response(_convert_error_to_refusal(error))

    for kind in (Refusal, ConfigError, AnyHTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, refuse)
    page = HTMLResponse(
        PAGE.replace("{{model}}", escape(gateway.model)), headers=_make_security_headers(PAGE)
    )
    limits = gateway.limits
    chat_example = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32, "temperature": 0.7}
    once = {"prompt": "Once upon a time"}

    @app.post(
        "/v1/chat/completions",
        **build_openapi_post_operation("/v1/chat/completions", ChatBody, limits, chat_example),
    )
    async def chat(request: Request) -> Response:
        return await _make_http_response(
            ChatResponse(gateway, await _parse_request_body(ChatBody, request, gateway)), request
        )

    text_example = once | {"max_tokens": 32, "stop": ["\n"]}

    @app.post(
        "/v1/completions", **build_openapi_post_operation("/v1/completions", TextBody, limits, text_example)
    )
    async def complete(request: Request) -> Response:
        return await _make_http_response(
            TextResponse(gateway, await _parse_request_body(TextBody, request, gateway)), request
        )

    @app.post(
        "/generate",
        **build_openapi_post_operation("/generate", GenerateBody, limits, once | {"max_new_tokens": 32}),
    )
    async def generate(request: Request) -> Response:
        answer = TextResponse(gateway, await _parse_request_body(GenerateBody, request, gateway))
        with (
            ClientRequest(gateway, get_client_id(request.scope)) as client,
            _cancel_request_on_disconnect(request, client),
        ):
            text = await answer.wait_for_completion_text(client)
        return JSONResponse({"response": text})

    @app.post(
        "/tokenize",
        **build_openapi_post_operation("/tokenize", TokenizeBody, limits, once, has_timeout_response=False),
    )
    async def tokenize(request: Request) -> Response:
        data, content_type = await request.body(), request.headers.get("content-type", "")
        with ClientRequest(gateway, get_client_id(request.scope)) as client:
            # it counts as a completion, so that a flood of long texts cannot delay other clients
            client.reserve_slots(1)
            answer = await gateway.run_in_thread(tokenize_request, data, content_type, gateway)
        return Response(answer, media_type="application/json")

    @app.get("/v1/models", summary=SUMMARIES["/v1/models"])
    async def models() -> Response:
        names = (None, *gateway.adapters)
        return JSONResponse({"object": "list", "data": [_describe_model(gateway, name) for name in names]})

    @app.get("/v1/models/{name:path}", include_in_schema=False)
    async def model(name: str) -> Response:
        gateway.check_model(name)
        return JSONResponse(_describe_model(gateway, gateway.find_adapter(name)))

    @app.get("/health", summary=SUMMARIES["/health"])
    async def health() -> Response:
        state = "draining" if gateway.is_draining else "ok" if gateway.driver.is_ready else "broken"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics", summary=SUMMARIES["/metrics"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        gateway.counters.record_token_rate()
        text = format_prometheus_metrics(gateway.counters, gateway.engine.stats, gateway.num_open_completions)
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

    description = openapi.build_openapi(app, limits)
    manual = HTMLResponse(openapi.render_docs_page(description), headers=_make_security_headers(openapi.PAGE))
    return RequestGuard(app, gateway, api_key, host)


async def _parse_request_body(
    body_type: type[ChatBody | TextBody | GenerateBody], request: Request, gateway: Gateway
) -> ParsedBody:
    data, content_type = await request.body(), request.headers.get("content-type", "")
    if len(data) <= SMALL_BODY:
        return parse_request_body(body_type, data, content_type, gateway)
    return await gateway.run_in_thread(parse_request_body, body_type, data, content_type, gateway)


async def _make_http_response(response: ClientResponse, request: Request) -> Response:
    """Return a complete HTTP response, or a stream after its first event."""
    client = ClientRequest(response.gateway, get_client_id(request.scope))
    try:
        with _cancel_request_on_disconnect(request, client):
            if not response.parsed.stream:
                whole = await response.build_complete_response(client)
                client.close()
                return Response(whole, media_type="application/json")
            first = await response.start(client)
        # it closes the client's request
        return CancellingStream(client, response.stream_chunks(client, first))
    except BaseException:
        client.close()
        raise


@contextmanager
def _cancel_request_on_disconnect(request: Request, client: ClientRequest) -> Iterator[None]:
    disconnect = asyncio.ensure_future(request.receive())  # the next message, as the body is read
    disconnect.add_done_callback(lambda done: None if done.cancelled() else client.handle_disconnect())
    try:
        yield
    finally:
        disconnect.cancel()


def _describe_model(gateway: Gateway, adapter_name: str | None) -> dict[str, Any]:
    """Return the JSON description of the base model or of an adapter, in vLLM's format."""
    model = {
        "id": adapter_name or gateway.model,
        "object": "model",
        "created": gateway.created,
        "owned_by": "runner",
    }
    parent = {} if adapter_name is None else {"parent": gateway.model}
    return model | parent | gateway.limits.max_model_len_entry


def _convert_error_to_refusal(error: Exception) -> Refusal:
    """Convert an exception to an error response for the client."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ConfigError):
        return Refusal(400, str(error))
    if isinstance(error, ClientDisconnect):
        why = "the client disconnected while it sent its request body"
        return ClientDisconnected(ClientDisconnected.STATUS, why)
    if not isinstance(error, AnyHTTPException):
        why = "an internal error of the server: see its log"
        return Refusal(500, why)
    paths = (
        "/v1/chat/completions, /v1/completions, /v1/models, /tokenize, "
        "/generate, /health, /metrics, /docs, /openapi.json and /"
    )
    why = {404: f"path not found. The paths are {paths}", 405: f"{error.detail}: the paths are {paths}"}.get(
        error.status_code, str(error.detail)
    )
    return Refusal(error.status_code, why)


def _make_security_headers(html_page: str) -> dict[str, str]:
    """Return Content-Security-Policy headers that allow a page to run only its own script and contact
    only this server.
    """

    def hash_sources(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html_page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
            for block in blocks
        )

    none = "'none'"
    policy = (
        f"default-src 'none'; script-src {hash_sources('script') or none}; "
        f"style-src {hash_sources('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
