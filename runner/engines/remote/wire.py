"""What comes over the wire from a server: in bounds, in plain bytes, and from the host that was asked."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2

from runner.config.model import ApiConfig
from runner.core.errors import ConfigError
from runner.core.machine import MIB
from runner.engines.remote.faults import Fault

BODY_MIB = 32  # of one answer, far above what the longest one needs
EVENT_MIB = 1  # of one event of a stream, which holds a few tokens
ERROR_KIB = 64  # of the body beside an error's status, of which a line is shown
PLAIN_BYTES = {"Accept-Encoding": "identity"}  # a few bytes that are packed can be any number of them
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
PORTS = {"http": 80, "https": 443}

Hook = Callable[[httpx2.Response], Coroutine[Any, Any, None]]


def guard(model: ApiConfig, plain: Callable[[object], str]) -> Hook:
    """Return what looks at the head of each response, before anything of its body is read."""

    async def look(response: httpx2.Response) -> None:
        if response.has_redirect_location:
            _refuse_elsewhere(model, response, plain)
        is_error = response.status_code >= 400
        packed = response.headers.get("content-encoding", "").strip().lower() not in ("", "identity")
        if packed and not is_error:
            how = plain(response.headers["content-encoding"])
            raise Fault(f"{model.base_url} sent a compressed answer ({how}), which was not asked for",
                        "sent a compressed answer")  # fmt: skip
        if packed:
            del response.headers["content-encoding"]  # what it says is left unread: the status tells enough
        is_stream = "text/event-stream" in response.headers.get("content-type", "")
        most = (0 if packed else ERROR_KIB * 2**10) if is_error else BODY_MIB * MIB
        stream: Any = response.stream
        response.stream = _Bounded(stream, model.base_url, most, is_error, is_stream)

    return look


def _refuse_elsewhere(model: ApiConfig, response: httpx2.Response, plain: Callable[[object], str]) -> None:
    """Refuse to follow to another host: it would get the prompts."""
    asked = response.request.url
    there = asked.join(response.headers["location"])
    if _place(there) == _place(asked) or (there.host == asked.host and _is_upgrade(asked, there)):
        return
    address = plain(f"{there.scheme}://{there.netloc.decode(errors='replace').rpartition('@')[2]}")
    raise ConfigError(
        f"{model.key}.base_url={model.base_url}: {asked.host}:{_port(asked)} sends requests on to another host, "
        f"{address}, which would get the prompts. If that is meant, give its address: "
        f"{model.key}.base_url={address}/v1"
    )


def _place(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, _port(url)


def _port(url: httpx2.URL) -> int | None:
    return url.port or PORTS.get(url.scheme)


def _is_upgrade(asked: httpx2.URL, there: httpx2.URL) -> bool:
    """Whether the same host is to be asked over TLS."""
    return (asked.scheme, _port(asked), there.scheme, _port(there)) == ("http", 80, "https", 443)


class _Bounded(httpx2.AsyncByteStream):
    """A body that is broken off where it gets longer than any answer is; that of an error simply ends there."""

    def __init__(self, stream: httpx2.AsyncByteStream, url: str, most: int, is_error: bool, is_stream: bool) -> None:
        self._stream, self._url, self._most = stream, url, most
        self._is_error, self._is_stream = is_error, is_stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = of_event = 0
        tail = b""
        async for part in self._stream:
            if not size:
                part = part.removeprefix(codecs.BOM_UTF8)  # the client would take the first event for none
            size += len(part)
            if self._is_error and size >= self._most:
                yield part[: len(part) + self._most - size]
                return
            if size > self._most:
                raise Fault(f"{self._url} sent an answer that goes on past {BODY_MIB} MiB", "sent an endless answer")
            if self._is_stream:
                seen = tail + part
                end = max(seen.rfind(blank) + len(blank) if blank in seen else 0 for blank in BLANK_LINES)
                of_event = len(seen) - end if end else of_event + len(part)
                tail = seen[max(end, len(seen) - 3) :]
                if of_event > EVENT_MIB * MIB:
                    endless = f"{self._url} sent a line or an event that goes on past {EVENT_MIB} MiB"
                    raise Fault(endless, "sent an endless line")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
