"""Guards against unsafe HTTP responses of servers: too large, compressed, or redirected to another host."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2

from runner.options.remote.faults import RequestFault
from runner.options.remote.keys import ApiConfig
from runner_base import MIB, ConfigError

BODY_MIB = 32  # of one answer, far above the longest one
EVENT_MIB = 1  # of one event of a stream, which holds a few tokens
ERROR_KIB = 64  # of the body of an error, of which one line is shown
PLAIN_BYTES = {"Accept-Encoding": "identity"}  # a few compressed bytes may expand to any size
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
PORTS = {"http": 80, "https": 443}

ResponseHook = Callable[[httpx2.Response], Coroutine[Any, Any, None]]


def make_header_check_hook(model: ApiConfig, redact_message: Callable[[object], str]) -> ResponseHook:
    """Return an httpx hook that checks response headers before the body is read."""

    async def check_headers_and_limit_body(response: httpx2.Response) -> None:
        if response.has_redirect_location:
            _check_redirect(model, response, redact_message)
        is_error = response.status_code >= 400
        is_compressed = response.headers.get("content-encoding", "").strip().lower() not in ("", "identity")
        if is_compressed and not is_error:
            encoding = redact_message(response.headers["content-encoding"])
            raise RequestFault(f"{model.base_url} sent a compressed answer ({encoding}), which was not requested",
                        "sent a compressed answer")  # fmt: skip
        if is_compressed:
            del response.headers["content-encoding"]  # the body is not read: the status is enough
        is_stream = "text/event-stream" in response.headers.get("content-type", "")
        most = (0 if is_compressed else ERROR_KIB * 2**10) if is_error else BODY_MIB * MIB
        stream: Any = response.stream
        response.stream = _LimitedStream(stream, model.base_url, most, is_error, is_stream)

    return check_headers_and_limit_body


def _check_redirect(
    model: ApiConfig, response: httpx2.Response, redact_message: Callable[[object], str]
) -> None:
    """Raise ConfigError for a redirect to another host, because that host would receive the prompts."""
    url = response.request.url
    target = url.join(response.headers["location"])
    if _origin(target) == _origin(url) or (target.host == url.host and _is_https_upgrade(url, target)):
        return
    address = redact_message(f"{target.scheme}://{target.netloc.decode(errors='replace').rpartition('@')[2]}")
    raise ConfigError(
        (
            f"{url.host}:{_port(url)} redirects to another host, {address}. Prompts are not sent there. "
            f"If you trust this host, use {model.key}.base_url={address}/v1"
        ),
        key=f"{model.key}.base_url",
        value=model.base_url,
        code="refused",
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, _port(url)


def _port(url: httpx2.URL) -> int | None:
    return url.port or PORTS.get(url.scheme)


def _is_https_upgrade(url: httpx2.URL, target: httpx2.URL) -> bool:
    """Return whether a redirect changes only http to https."""
    return (url.scheme, _port(url), target.scheme, _port(target)) == ("http", 80, "https", 443)


class _LimitedStream(httpx2.AsyncByteStream):
    """HTTP response body with a size limit. Raises RequestFault for a longer answer, and truncates a
    longer error.
    """

    def __init__(
        self, stream: httpx2.AsyncByteStream, url: str, max_bytes: int, is_error: bool, is_stream: bool
    ) -> None:
        self._stream, self._url, self._most = stream, url, max_bytes
        self._is_error, self._is_stream = is_error, is_stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = event_size = 0
        tail = b""
        async for part in self._stream:
            if not size:
                # with it, the client would ignore the first event
                part = part.removeprefix(codecs.BOM_UTF8)
            size += len(part)
            if self._is_error and size >= self._most:
                yield part[: len(part) + self._most - size]
                return
            if size > self._most:
                raise RequestFault(
                    f"{self._url} sent an answer of more than {BODY_MIB} MiB", "sent an endless answer"
                )
            if self._is_stream:
                text = tail + part
                end = max(text.rfind(blank) + len(blank) if blank in text else 0 for blank in BLANK_LINES)
                event_size = len(text) - end if end else event_size + len(part)
                tail = text[max(end, len(text) - 3) :]
                if event_size > EVENT_MIB * MIB:
                    raise RequestFault(
                        f"{self._url} sent a line or an event of more than {EVENT_MIB} MiB",
                        "sent an endless line",
                    )
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
