"""Connection to one server with OpenAI's API, through the official OpenAI client library.

The API key is read from the environment. No message from this module contains it.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
import openai

from runner.options.remote.addresses import is_loopback_address
from runner.options.remote.faults import InvalidTokenCounts, RequestFault, RequestRejected
from runner.options.remote.forced_scoring import ForcedScorer
from runner.options.remote.keys import OPENAI_KEY_VARIABLE, ApiConfig, ApiExtensions
from runner.options.remote.response_guard import PLAIN_BYTES, make_header_check_hook
from runner.options.remote.scoring import Scorer
from runner.options.remote.server_text import ApiKeyRedactor
from runner_base import ConfigError, JobFailed, RunnerError

T = TypeVar("T")
KEPT = "Completed answers are saved. Run the same command to resume"
for noisy in (
    "openai",
    "httpx2",
    "httpcore2",
):  # they log a line for each request, and headers at the level DEBUG
    logging.getLogger(noisy).setLevel(logging.WARNING)

RETRY_STATUSES = (408, 409, 425, 429)  # and all from 500 on
EXTENDED = ("vllm", "runner")  # accept more parameters than OpenAI: vLLM and our task=serve
NO_LIST = (404, 405, 501)  # statuses of servers without a list of models
started_keys: dict[str, str] = {}  # the keys of servers that this process has started, by address


@dataclass
class ModelList:
    """Models that a server lists. `own` is the list entry of the configured model."""

    names: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    reported: str = (
        "unknown"  # the server's identification of the model, without values that change between requests
    )

    @property
    def extensions(self) -> ApiExtensions:
        """Sampling extensions that the server supports, inferred from `owned_by` in its list of models."""
        return ApiExtensions.vllm if self.own.get("owned_by") in EXTENDED else ApiExtensions.openai


def find_api_key(model: ApiConfig) -> tuple[str, str]:
    """Return the server's API key and the variable that contains it. A server on this machine needs no
    key.
    """
    names = model.api_key_variables
    if isinstance(model.base_url, str) and model.base_url in started_keys:
        return started_keys[model.base_url], names[0]
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(
                    "not a valid API key. A key contains only printable ASCII characters and no spaces",
                    key=name,
                    code="bad_value",
                )
            return key, name
    if is_loopback_address(model.base_url):
        return "", names[0]
    raise ConfigError(
        (
            f"{model.key}.base_url={model.base_url} is another machine, so an API key is required. Set "
            f"{' or '.join(names)} in the environment or in .env. Any value works if the server "
            f"needs no key{_make_openai_key_hint(model)}"
        ),
        code="missing",
    )


def _make_openai_key_hint(model: ApiConfig) -> str:
    """Return a hint if OPENAI_API_KEY is set but unused, because that key is sent only to openai.com."""
    if OPENAI_KEY_VARIABLE in model.api_key_variables or not os.environ.get(OPENAI_KEY_VARIABLE, "").strip():
        return ""
    override = f"{model.key}.key_variable={OPENAI_KEY_VARIABLE}"
    return f". {OPENAI_KEY_VARIABLE} is sent to openai.com only. {override} sends it to this server"


class ServerConnection:
    """Connection to one server, with its failure count and the pauses that it requested. Used by one
    thread only.
    """

    def __init__(self, model: ApiConfig) -> None:
        """Open the connection in a running event loop. `model` contains only this server's address."""
        self.model = model
        self._key, self._variable = find_api_key(model)
        self.secret = ApiKeyRedactor(self._key)
        self.plain = self.secret.redact_message
        self.under_way = 0  # requests now
        self.requests = self.failures = 0  # so far; a request that is sent again counts again
        self.failures_in_a_row = 0
        self.has_streamed = False  # it has begun an answer as a stream of events
        self.is_left_out = False  # it cannot be reached, or fails again and again
        self.times_left_out = 0  # since its last answer
        self._closed_until = 0.0  # it has asked for a pause of all requests
        http = openai.DefaultAsyncHttpxClient(
            event_hooks={"response": [make_header_check_hook(model, self.plain)]}
        )
        self.client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # the client requires one
            base_url=model.base_url,
            max_retries=0,  # the pool does it, because it knows all requests and the text already returned
            timeout=httpx2.Timeout(model.first_token_timeout_s, connect=model.connect_timeout_s, pool=None),
            http_client=http,
            default_headers=PLAIN_BYTES,
        )
        kind = ForcedScorer if model.extensions is ApiExtensions.llama_cpp else Scorer
        self.scorer = kind(self.client, model, self.plain)

    @property
    def remaining_pause_s(self) -> float:
        """Remaining seconds of a pause that the server has requested."""
        return max(0.0, self._closed_until - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Send no requests to this server for some seconds."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    async def run_scorer(self, query: Callable[[Scorer], Awaitable[T]]) -> T:
        """Run a query with the server's scorer, and convert its errors to the runner's exceptions."""
        try:
            return await query(self.scorer)
        except openai.APIStatusError as error:
            raise await self.make_status_error(error) from None
        except (RunnerError, RequestRejected):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server may send
            raise self.convert_to_request_fault(error) from None

    async def list_models(self) -> ModelList:
        try:
            async with asyncio.timeout(self.model.first_token_timeout_s):
                page = await self.client.models.list()
                entries = [entry.to_dict(warnings=False) for entry in page.data]
        except openai.APIStatusError as error:
            if error.status_code in NO_LIST:
                return ModelList()
            raise await self.make_status_error(error) from None
        except RunnerError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server may send
            raise self.convert_to_request_fault(error) from None
        own = next((entry for entry in entries if entry.get("id") == self.model.name), {})
        reported = ", ".join(
            f"{key} {self.secret.redact_name(own[key])}" for key in ("id", "root", "parent") if own.get(key)
        )
        return ModelList([self.plain(entry.get("id")) for entry in entries], own, reported or "unknown")

    async def make_status_error(self, error: openai.APIStatusError) -> Exception:
        model, status = self.model, error.status_code
        message = error.body.get("message") if isinstance(error.body, dict) else error.message
        answer = f"{model.base_url} answered {status}: {self.plain(message or error.message)}"
        if status in (401, 403):
            unset = f"{self._variable} is not set{_make_openai_key_hint(model)}"
            cause = f"the server rejected the key in {self._variable}" if self._key else unset
            return ConfigError(f"{answer} ({cause})", code="refused")
        if status == 404:
            names = (await self.list_models()).names
            hint = f"models: {', '.join(names[:20])}" if names else "check that the address ends in /v1"
            return ConfigError(
                f"{answer}; {hint}", key=f"{model.key}.name", value=model.name, code="not_found"
            )
        if status == 402 or error.code == "insufficient_quota":
            return JobFailed(f"{answer}. {KEPT}", code="refused")
        if status in RETRY_STATUSES or status >= 500:
            return RequestFault(answer, f"answered {status}", _parse_retry_after_s(error.response.headers))
        return RequestRejected(answer)

    def convert_to_request_fault(self, error: Exception) -> RequestFault:
        """Convert an error of the client library to a RequestFault."""
        url = self.model.base_url
        if isinstance(error, InvalidTokenCounts):
            return InvalidTokenCounts(f"{url} answered with {self.plain(error)}", error.kind)
        if isinstance(error, RequestFault):
            return error
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            reached = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            wait_s = self.model.first_token_timeout_s if reached else self.model.connect_timeout_s
            return RequestFault(
                f"{url} sent nothing for {wait_s:g} s", "was silent", was_server_reached=reached
            )
        if isinstance(error, openai.APIConnectionError):
            reached = not isinstance(error.__cause__, httpx2.ConnectError)
            cause = self.plain(error.__cause__ or error)
            if reached:
                return RequestFault(f"{url} closed the connection ({cause})", "closed the connection")
            return RequestFault(
                f"{url} cannot be reached ({cause})", "could not be reached", was_server_reached=False
            )
        if isinstance(error, openai.APIError):
            return RequestFault(
                f"{url} reported an error in its answer: {self.plain(error.message)}", "reported an error"
            )
        return RequestFault(f"{url} sent an invalid answer: {self.plain(error)}", "sent no valid answer")


def move_token_ids_to_extra_body(parameters: dict[str, Any]) -> dict[str, Any]:
    """Move a prompt of token ids to `extra_body`, so that the OpenAI client skips its slow validation.

    The validation would take 10 ms per 1,000 ids.
    """
    if not isinstance(parameters.get("prompt"), list):
        return parameters
    return parameters | {
        "prompt": "",
        "extra_body": parameters.get("extra_body", {}) | {"prompt": parameters["prompt"]},
    }


def _parse_retry_after_s(headers: httpx2.Headers) -> float | None:
    """Parse the header Retry-After as seconds. Returns None if the header is missing or invalid."""
    retry_after = headers.get("retry-after", "")
    try:
        wait_s = float(retry_after)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):  # OverflowError: an impossible time zone
            return None
    return max(wait_s, 0.0) if math.isfinite(wait_s) else None
