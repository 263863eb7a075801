"""A client's connection: how long it may be silent, how long it may leave its answer unread, and
how many there are."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.options.serve.answers import CONNECTION
from runner.options.serve.limits import HEADER_S, READ_BYTES_PER_S, Limits
from runner.options.serve.refusals import Refusal, error_body

# of a connection at once: a body may come in chunks of one byte, and each takes time
READ_BYTES = 16 * 1024


class Connection(H11Protocol):
    """uvicorn's, read in small parts so that it never blocks the event loop for long, and with
    limits."""

    def __init__(self, limits: Limits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.limits, self.app = limits, self._with_connection(self.app)
        self._waiting: asyncio.TimerHandle | None = None  # until it is closed, while no request is under way
        self._writing: asyncio.TimerHandle | None = (
            None  # until the next look at how much was read of the answer
        )
        self._since = self.loop.time()  # when it began to wait for a request
        self._has_begun = False  # whether a part of a request's header has arrived

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a request, or for the rest of a request's header."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; if there are too many connections, one that waits is closed,
        or this one."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        transport.set_write_buffer_limits(high=0)  # so that each unread byte starts the time limit
        super().connection_made(transport)
        others = [
            connection
            for connection in self.connections
            if connection is not self and not connection.transport.is_closing()
        ]
        refusal = self.limits.connections_refused(len(others))
        if refusal is not None:
            waiting = [other for other in others if isinstance(other, Connection) and other.is_waiting]
            if not waiting:
                self._refuse(refusal)
                return
            # first those without any request so far: a silent stranger must not take the place of a
            # client
            min(waiting, key=lambda one: (one.cycle is not None, one._since))._end()
        self._wait(self.limits.task.idle_s)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; the rest of its header must follow soon."""
        super().data_received(data)
        if self.is_waiting and not self._has_begun and not self.transport.is_closing():
            self._has_begun = True
            self._wait(min(HEADER_S, self.limits.task.idle_s))
        elif not self.is_waiting:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request; if the rest of this one's body is not read, end the
        connection."""
        self._has_begun, self._since = False, self.loop.time()
        super().on_response_complete()  # it may begin a request that has arrived already
        self._unset_keepalive_if_required()  # uvicorn's time limit ends at the first byte of a header
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY and self.is_waiting:
            self.transport.close()
        elif self.is_waiting:
            self._wait(self.limits.task.idle_s)
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all time limits."""
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Part of the answer is unread: watch whether the client goes on reading."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """All of the answer is read, or on its way."""
        self._stop_writing()
        super().resume_writing()

    def abort(self) -> None:
        """End it at once, and drop what is unread of its answer, also what the kernel holds."""
        bound: socket.socket | None = self.transport.get_extra_info("socket")
        if bound is not None and bound.fileno() >= 0:
            # a reset
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _with_connection(self, app: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            scope[CONNECTION] = self
            await app(scope, receive, send)

        return serve

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._end)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None

    def _end(self) -> None:
        """End it while it waits for a request."""
        if self.transport.get_write_buffer_size():  # closing would wait until that is read
            self.abort()
        else:
            self.timeout_keep_alive_handler()

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stop_writing()
        self._writing = self.loop.call_later(self.limits.task.write_s, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        """End the connection if too little was read since the last look; nothing is added while it
        is paused."""
        if unread - self.transport.get_write_buffer_size() < READ_BYTES_PER_S * self.limits.task.write_s:
            self.abort()
        else:
            self._watch_reader()

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._writing = None

    def _refuse(self, refusal: Refusal) -> None:
        """Answer that there are too many connections, without reading a request."""
        body = json.dumps({"error": error_body(refusal)}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_of(limits: Limits) -> type[Connection]:
    """Return the class of a server's connections, as uvicorn wants it."""

    class OfServer(Connection):
        def __init__(self, **uvicorns: Any) -> None:
            super().__init__(limits, **uvicorns)

    return OfServer
