"""What stands before the application: who is let in, how large a body may be, and what was answered."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from contextlib import suppress

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.serving.answers import error_response
from runner.serving.gateway import ClientGone, Gateway, Refusal

OPEN = ("/", "/health", "/docs", "/openapi.json")  # what anybody may see: they tell nothing of what is asked
COUNTED = ("/v1/chat/completions", "/v1/completions", "/generate")
BODY_S = 60.0  # in which a body must have come
# What is read of a body after its answer, so that the answer reaches a client that is still sending.
DRAIN_BYTES, DRAIN_S, SILENT_S = 256 * 1024 * 1024, 30.0, 2.0


class RequestGuard:
    """Stands before the application: asks for the key, limits the body, and counts what was answered."""

    def __init__(self, app: ASGIApp, gateway: Gateway, key: str | None, host: str) -> None:
        self.app, self.gateway, self.key = app, gateway, key
        self.names = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.lower()}]"}
        self.most_bytes = gateway.task.max_body_kib * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        status, ended = 0, False
        body = LimitedBody(scope, receive, self.most_bytes)

        async def count(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                ended = True
                if body.is_to_come:
                    await send({**message, "more_body": True})
                    await body.drain()
                    message = {"type": message["type"]}
            await send(message)

        rejection = self._rejection_reason(scope)
        try:
            if rejection is not None:
                await error_response(rejection)(scope, receive, count)
            else:
                await self.app(scope, body.receive, count)
        finally:
            if path in COUNTED and ended and status != ClientGone.STATUS:
                self.gateway.counters.answered(path, status, time.perf_counter() - started)
            elif path in COUNTED:
                self.gateway.counters.left += 1

    def _rejection_reason(self, scope: Scope) -> Refusal | None:
        """Say why a request is refused by its head alone."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.key is None:
            name = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1").lower())
            if name not in self.names:  # a page of another site that has given its own name our address
                return Refusal(403, f"without a key this server answers to its own name only, not to {name!r}")
        elif scope["path"] not in OPEN:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key.encode()):
                need = "send the header `Authorization: Bearer KEY` with the server's key"
                return Refusal(401, f"the key is missing or wrong: {need}", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return too_large(self.most_bytes) if length.isdigit() and int(length[:20]) > self.most_bytes else None


class LimitedBody:
    """The body of a request on its way: it is ended where it is too large or too slow."""

    def __init__(self, scope: Scope, receive: Receive, most_bytes: int) -> None:
        headers = dict(scope["headers"])
        self._receive, self.most_bytes = receive, most_bytes
        self._size, self._deadline = 0, time.monotonic() + BODY_S
        length = headers.get(b"content-length", b"0")
        self.is_to_come = length != b"0" or b"transfer-encoding" in headers
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next part; once all is there, what comes next is the client's end."""
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._deadline - time.monotonic())
        except TimeoutError:
            self.is_to_come = False  # it is not waited for any longer
            raise HTTPException(408, f"the body has not come within {BODY_S:g} s") from None
        self._take(message)
        if self._size > self.most_bytes:
            raise HTTPException(413, too_large(self.most_bytes).message)
        return message

    async def drain(self) -> None:
        """Read what is still to come after the answer, and drop it, within limits.

        A client that sends all before it reads would not find the answer: a connection that is closed with bytes in it
        is reset.
        """
        end, most = time.monotonic() + DRAIN_S, self._size + DRAIN_BYTES
        with suppress(TimeoutError):
            while self.is_to_come and self._size < most:
                self._take(await asyncio.wait_for(self._receive(), min(SILENT_S, end - time.monotonic())))

    def _take(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body")  # so it is where the client has gone
        self.is_to_come = self.is_to_come and not self._is_whole


def too_large(most_bytes: int) -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(413, f"the body is too large: this server takes {most_bytes // 1024} KiB (task.max_body_kib)")
