"""A client's HTTP connection, with limits on idle time, unread output and number of connections."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.options.serve.client_response import CONNECTION
from runner.options.serve.limits import HEADER_S, READ_BYTES_PER_S, ServerLimits
from runner.options.serve.refusals import Refusal, format_error

# of a connection at once: a body may come in chunks of one byte, and each takes time
READ_BYTES = 16 * 1024


class LimitedConnection(H11Protocol):
    """uvicorn connection with limits. It reads small chunks, so that parsing blocks the event loop only
    briefly.
    """

    def __init__(self, limits: ServerLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.limits, self.app = limits, self._add_to_scope(self.app)
        self._waiting: asyncio.TimerHandle | None = None  # until it is closed, while no request is under way
        self._writing: asyncio.TimerHandle | None = (
            None  # until the next look at how much was read of the answer
        )
        self._since = self.loop.time()  # when it began to wait for a request
        self._has_begun = False  # whether a part of a request's header has arrived

    @property
    def is_idle(self) -> bool:
        """Whether the connection has no running request. A request header may have been received in part."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection. If there are too many, closes an idle connection or the new connection."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        transport.set_write_buffer_limits(high=0)  # so that each unread byte starts the time limit
        super().connection_made(transport)
        others = [
            connection
            for connection in self.connections
            if connection is not self and not connection.transport.is_closing()
        ]
        refusal = self.limits.check_connection_limit(len(others))
        if refusal is not None:
            waiting = [other for other in others if isinstance(other, LimitedConnection) and other.is_idle]
            if not waiting:
                self._send_refusal(refusal)
                return
            # first those without any request so far: a silent stranger must not take the place of a
            # client
            min(waiting, key=lambda one: (one.cycle is not None, one._since))._close_if_idle()
        self._start_idle_timer(self.limits.task.idle_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Process received data, and limit the time until a request header is complete."""
        super().data_received(data)
        if self.is_idle and not self._has_begun and not self.transport.is_closing():
            self._has_begun = True
            self._start_idle_timer(min(HEADER_S, self.limits.task.idle_timeout_s))
        elif not self.is_idle:
            self._stop_idle_timer()

    def on_response_complete(self) -> None:
        """Prepare for the client's next request. Closes the connection if the request body was not read
        completely.
        """
        self._has_begun, self._since = False, self.loop.time()
        super().on_response_complete()  # it may begin a request that has arrived already
        self._unset_keepalive_if_required()  # uvicorn's time limit ends at the first byte of a header
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY and self.is_idle:
            self.transport.close()
        elif self.is_idle:
            self._start_idle_timer(self.limits.task.idle_timeout_s)
        else:
            self._stop_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers of the closed connection."""
        self._stop_idle_timer()
        self._stop_reader_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start a timer that closes the connection if the client does not read."""
        super().pause_writing()
        self._start_slow_reader_timer()

    def resume_writing(self) -> None:
        """Stop the timer for slow clients after all output was sent."""
        self._stop_reader_timer()
        super().resume_writing()

    def abort(self) -> None:
        """Close the connection immediately and discard unsent output."""
        bound: socket.socket | None = self.transport.get_extra_info("socket")
        if bound is not None and bound.fileno() >= 0:
            # a reset
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _add_to_scope(self, app: ASGIApp) -> ASGIApp:
        async def call_app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[CONNECTION] = self
            await app(scope, receive, send)

        return call_app

    def _start_idle_timer(self, seconds: float) -> None:
        self._stop_idle_timer()
        self._waiting = self.loop.call_later(seconds, self._close_if_idle)

    def _stop_idle_timer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None

    def _close_if_idle(self) -> None:
        """Close the connection after the idle timeout."""
        if self.transport.get_write_buffer_size():  # closing would wait until that is read
            self.abort()
        else:
            self.timeout_keep_alive_handler()

    def _start_slow_reader_timer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stop_reader_timer()
        self._writing = self.loop.call_later(
            self.limits.task.write_timeout_s, self._check_read_progress, unread
        )

    def _check_read_progress(self, unread_bytes: int) -> None:
        """Abort the connection if the client has read too little since the last check.

        No output is added while writing is paused.
        """
        if (
            unread_bytes - self.transport.get_write_buffer_size()
            < READ_BYTES_PER_S * self.limits.task.write_timeout_s
        ):
            self.abort()
        else:
            self._start_slow_reader_timer()

    def _stop_reader_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._writing = None

    def _send_refusal(self, refusal: Refusal) -> None:
        """Respond with HTTP status 503 (too many connections) without reading the request."""
        body = json.dumps({"error": format_error(refusal)}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def make_connection_class(limits: ServerLimits) -> type[LimitedConnection]:
    class OfServer(LimitedConnection):
        def __init__(self, **uvicorns: Any) -> None:
            super().__init__(limits, **uvicorns)

    return OfServer
