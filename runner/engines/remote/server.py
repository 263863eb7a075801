"""A server behind OpenAI's API: the official client in a thread of its own, tried again with patience, errors in words.

The key is read from the environment, goes into the client and appears in no text that comes from here.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self, TypeVar

import httpx2
import openai

from runner.config.model import OPENAI_KEY_VARIABLE, ApiConfig, Extensions
from runner.core.errors import ConfigError, JobFailed, RunnerError
from runner.engines.remote.faults import Fault, Miscounted, RequestRejected
from runner.engines.remote.heard import Secret
from runner.engines.remote.scoring import Scorer
from runner.engines.remote.wire import PLAIN_BYTES, guard

log = logging.getLogger(__name__)
for noisy in ("openai", "httpx2", "httpcore2"):  # a line for each request, and headers where all is logged
    logging.getLogger(noisy).setLevel(logging.WARNING)

T = TypeVar("T")
LONGEST_WAIT_S = 30.0  # between two tries, where the server does not say how long
ASK_TWICE = (408, 409, 425, 429)  # and all from 500 on
EXTENDED = ("vllm", "runner")  # who take more than OpenAI: vLLM, and our own task=serve
NO_LIST = (404, 405, 501)  # a server without a list of its models


@dataclass
class ModelList:
    """What a server says of its models; `own` is the entry of the one that is asked for."""

    names: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    reported: str = "unknown"  # what it says that the model is, as far as it stays the same between two questions

    @property
    def extensions(self) -> Extensions:
        """What the server takes besides OpenAI's own keys, by who it says it is."""
        return Extensions.vllm if self.own.get("owned_by") in EXTENDED else Extensions.openai


def key_of(model: ApiConfig) -> tuple[str, str]:
    """Return the server's key and the variable that holds it; a server on this machine may do without."""
    names = model.key_variables
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(f"{name}: a key is one word of plain letters, digits and signs, and this is none")
            return key, name
    if model.is_here:
        return "", names[0]
    raise ConfigError(
        f"{model.key}.base_url={model.base_url} is another machine, and there is no key for it: set "
        f"{' or '.join(names)} in the environment or in .env (any word, where the server asks for none)"
        f"{_openai_key_unsent(model)}"
    )


def _openai_key_unsent(model: ApiConfig) -> str:
    """Say of OpenAI's key, where it is there, that another server does not get it by itself."""
    if OPENAI_KEY_VARIABLE in model.key_variables or not os.environ.get(OPENAI_KEY_VARIABLE, "").strip():
        return ""
    named = f"{model.key}.key_variable={OPENAI_KEY_VARIABLE}"
    return f". {OPENAI_KEY_VARIABLE} goes to openai.com only: {named} sends it to this server"


class ServerConnection:
    """One connection to a server; what it does runs in a thread of its own, until it is closed."""

    def __init__(self, model: ApiConfig, again: Counter[str] | None = None) -> None:
        self.model = model
        self._key, self._variable = key_of(model)
        self.secret = Secret(self._key)
        self.plain = self.secret.plain
        self.again = Counter() if again is None else again  # why requests were put again
        self._closed_until = 0.0  # the server has asked all of us to wait
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()
        self.client = self.call(self._open())
        self.scorer = Scorer(self)

    async def _open(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [guard(self.model, self.plain)]})
        silent_s = self.model.first_token_s
        return openai.AsyncOpenAI(
            api_key=self._key or "none",  # the client wants one
            base_url=self.model.base_url,
            max_retries=0,  # patience is ours: it counts, waits for all, and knows what was told already
            timeout=httpx2.Timeout(silent_s, connect=self.model.connect_s, pool=None),
            http_client=http,
            default_headers=PLAIN_BYTES,
        )

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's thread, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def soon(self, work: Callable[..., object], *arguments: object) -> None:
        """Have a function called in the server's thread."""
        self._loop.call_soon_threadsafe(work, *arguments)

    def close(self) -> None:
        """End all that is under way and close every connection."""
        if self._loop.is_closed():
            return
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if not task.cancelling():  # twice would cut short how it closes its connection
                task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()
        await self._loop.shutdown_asyncgens()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- patience

    async def patiently(self, attempt: Callable[[], Awaitable[T]], tries: int) -> T:
        """Try until an answer comes, with longer and longer waits; after the last try, raise what went wrong."""
        for number in count(1):
            while (left_s := self._closed_until - time.monotonic()) > 0:
                await asyncio.sleep(left_s + random.uniform(0, self.model.backoff_s))
            try:
                return await attempt()
            except Fault as fault:
                fault.tries, wait_s = number, fault.wait_s
                if fault.wait_s is not None:
                    self._closed_until = max(self._closed_until, time.monotonic() + fault.wait_s)
                if number >= tries:
                    raise
                if not self.again[fault.kind]:
                    log.warning("%s: asking again, up to %d times", fault, tries - 1)
                self.again[fault.kind] += 1
                if (fault.wait_s or 0) > self.model.answer_s:
                    late = f"it asks to wait {fault.wait_s:,.0f} s, longer than {self.model.key}.answer_s"
                    raise JobFailed(f"{fault}; {late}. What was answered is kept; the same command goes on") from None
            if wait_s is None:
                longest_s = min(LONGEST_WAIT_S, self.model.backoff_s * 2 ** (number - 1))
                await asyncio.sleep(longest_s * random.uniform(0.5, 1))
        raise AssertionError

    # ---------------------------------------------------------------------------------------- models, errors

    def listed(self) -> ModelList:
        """Return what the server says of its models; raise ConfigError or JobFailed where it does not let us in."""
        try:
            return self.call(self.patiently(self._list, min(3, self.model.retries + 1)))
        except (Fault, RequestRejected) as error:
            raise JobFailed(f"{error}. What was answered is kept; the same command goes on") from None

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, special ones too; ConfigError or JobFailed where the server does not say them."""

        async def ask() -> list[list[int]]:
            try:
                return await self.scorer.tokens_of(texts)
            except openai.APIStatusError as error:
                raise await self.what_is(error) from None
            except (RunnerError, RequestRejected):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a server may send
                raise self.fault(error) from None

        try:
            return self.call(self.patiently(ask, self.model.retries + 1))
        except (Fault, RequestRejected) as error:
            raise JobFailed(f"{error}. What was answered is kept; the same command goes on") from None

    async def _list(self) -> ModelList:
        try:
            async with asyncio.timeout(self.model.first_token_s):
                page = await self.client.models.list()
                entries = [entry.to_dict(warnings=False) for entry in page.data]
        except openai.APIStatusError as error:
            if error.status_code in NO_LIST:
                return ModelList()
            raise await self.what_is(error) from None
        except RunnerError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server may send
            raise self.fault(error) from None
        own = next((entry for entry in entries if entry.get("id") == self.model.name), {})
        said = [f"{key} {self.secret.name(own[key])}" for key in ("id", "root", "parent") if own.get(key)]
        return ModelList([self.plain(entry.get("id")) for entry in entries], own, ", ".join(said) or "unknown")

    async def what_is(self, error: openai.APIStatusError) -> Exception:
        """Return what an answer with an error's status means for us."""
        model, status = self.model, error.status_code
        said = error.body.get("message") if isinstance(error.body, dict) else error.message
        why = f"{model.base_url} answered {status}: {self.plain(said or error.message)}"
        if status in (401, 403):
            unset = f"{self._variable} is not set{_openai_key_unsent(model)}"
            have = f"the key in {self._variable} is not taken" if self._key else unset
            return ConfigError(f"{why} ({have})")
        if status == 404:
            names = (await self._list()).names
            there = f"it has {', '.join(names[:20])}" if names else "does its address end in /v1?"
            return ConfigError(f"{model.key}.name={model.name}: {why}; {there}")
        if status == 402 or error.code == "insufficient_quota":
            return JobFailed(f"{why}. What was answered is kept; the same command goes on")
        if status in ASK_TWICE or status >= 500:
            return Fault(why, f"answered {status}", _wait_s(error.response.headers))
        return RequestRejected(why)

    def fault(self, error: Exception) -> Fault:
        """Say what went wrong with a request that got no answer, or a broken one."""
        url = self.model.base_url
        if isinstance(error, Miscounted):
            return Miscounted(f"{url} answered with {self.plain(error)}", error.kind)
        if isinstance(error, Fault):
            return error
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            reached = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            wait_s = self.model.first_token_s if reached else self.model.connect_s
            return Fault(f"{url} was silent for {wait_s:g} s", "was silent", reached=reached)
        if isinstance(error, openai.APIConnectionError):
            reached = not isinstance(error.__cause__, httpx2.ConnectError)
            cause = self.plain(error.__cause__ or error)
            if reached:
                return Fault(f"{url} broke the connection off ({cause})", "broke the connection off")
            return Fault(f"{url} cannot be reached ({cause})", "could not be reached", reached=False)
        if isinstance(error, openai.APIError):
            return Fault(f"{url} reported in its answer: {self.plain(error.message)}", "reported an error")
        return Fault(f"{url} sent what is no answer: {self.plain(error)}", "sent what is no answer")


def _wait_s(headers: httpx2.Headers) -> float | None:
    """Return how long the server asks to wait: seconds, or until a date."""
    said = headers.get("retry-after", "")
    try:
        wait_s = float(said)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):  # the last of a zone far from all zones
            return None
    return max(wait_s, 0.0) if math.isfinite(wait_s) else None
