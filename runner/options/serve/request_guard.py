"""ASGI middleware that checks API key and body size before the application handles a request."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from contextlib import suppress

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.options.serve.gateway import Gateway
from runner.options.serve.limits import BODY_S, ServerLimits
from runner.options.serve.refusals import ClientDisconnected, Refusal, make_error_response

# need no key: they reveal nothing about requests
OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")
COUNTED_PATHS = ("/v1/chat/completions", "/v1/completions", "/generate")
# Limits for reading the rest of a body after its answer, so that the answer reaches a client that
# is still sending.
DRAIN_BYTES, DRAIN_S, SILENCE_S = 64 * 1024 * 1024, 30.0, 2.0
STRANGER_BYTES = 64 * 1024  # the same for a client without the key


class RequestGuard:
    """ASGI middleware that checks the API key, limits the body size, and counts responses."""

    def __init__(self, app: ASGIApp, gateway: Gateway, api_key: str | None, host: str) -> None:
        self.app, self.gateway, self.key = app, gateway, api_key
        self.names = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.lower()}]"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request to the application, or respond with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        status, ended = 0, False
        body = LimitedBody(scope, receive, self.gateway.limits)

        async def send_and_record_status(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                ended = True
                if body.is_incomplete:
                    await send({**message, "more_body": True})
                    await body.discard_remaining_body(STRANGER_BYTES if status in (401, 403) else DRAIN_BYTES)
                    message = {"type": message["type"]}
            await send(message)

        rejection = self._check_headers(scope)
        try:
            if rejection is not None:
                await make_error_response(rejection)(scope, receive, send_and_record_status)
            else:
                await self.app(scope, body.receive, send_and_record_status)
        finally:
            if path in COUNTED_PATHS and ended and status != ClientDisconnected.STATUS:
                self.gateway.counters.count_response(path, status, time.perf_counter() - started)
            elif path in COUNTED_PATHS:
                self.gateway.counters.left += 1

    def _check_headers(self, scope: Scope) -> Refusal | None:
        """Return an error response if the request headers are not acceptable, otherwise None."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if (
            b"content-length" in headers and b"transfer-encoding" in headers
        ):  # which one holds is read differently
            need = "give either Content-Length or Transfer-Encoding, not both"
            return Refusal(400, need, closes_connection=True)
        if self.key is None:
            name = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1").lower())
            if name not in self.names:  # DNS rebinding: another site's name resolves to our address
                why = f"host {name!r} is not accepted. Without an API key, the server accepts only its own host name"
                return Refusal(403, why)
        elif scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key.encode()):
                fix = "send the header `Authorization: Bearer KEY` with the server's key"
                why = f"the API key is missing or wrong. {fix}"
                return Refusal(401, why, code="invalid_api_key")
        return self.gateway.limits.check_content_length(headers)


class LimitedBody:
    """Request body while it is being received. A body that is too large or too slow is rejected."""

    def __init__(self, scope: Scope, receive: Receive, limits: ServerLimits) -> None:
        headers = dict(scope["headers"])
        self._receive, self.limits = receive, limits
        self._size, self._deadline = 0, time.monotonic() + BODY_S
        length = headers.get(b"content-length", b"0")
        self.is_incomplete = length != b"0" or b"transfer-encoding" in headers
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next chunk of the body. After the last chunk, wait for the client to disconnect."""
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._deadline - time.monotonic())
        except TimeoutError:
            self.is_incomplete = False  # give up on the rest
            raise HTTPException(408, f"the request body did not arrive within {BODY_S:g} s") from None
        self._count_body_bytes(message)
        refusal = self.limits.check_body_size(self._size)
        if refusal is not None:
            raise HTTPException(refusal.status, refusal.message)
        return message

    async def discard_remaining_body(self, max_bytes: int) -> None:
        """Read and discard up to `max_bytes` of the remaining body before the connection is closed.

        Closing a connection with unread bytes resets it. A client that sends its whole body before
        reading would lose the response.
        """
        end, max_bytes = time.monotonic() + DRAIN_S, self._size + max_bytes
        with suppress(TimeoutError):
            while self.is_incomplete and self._size < max_bytes:
                self._count_body_bytes(
                    await asyncio.wait_for(self._receive(), min(SILENCE_S, end - time.monotonic()))
                )

    def _count_body_bytes(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body")  # also true of a disconnect
        self.is_incomplete = self.is_incomplete and not self._is_whole
