"""Scores texts on a server, by the log-probabilities of prompt tokens that it returns.

Needs `/tokenize`, and echo with log-probabilities in `/v1/completions`; vLLM and task=serve
have both. A small first request tests whether a server has them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import openai

from runner.options.remote.faults import RequestFault, RequestRejected
from runner.options.remote.keys import ApiConfig
from runner.options.remote.token_scores import (
    ScoredContinuation,
    ScoringMethod,
    SinglePassScoring,
    StepwiseScoring,
    parse_logprob,
)
from runner_base import ConfigError
from runner_engine import Capability, Message, Prompt, Request

T = TypeVar("T")
CACHED_PROMPTS = 1024  # their tokens are cached, because the choices of a question share a prompt
UNSUPPORTED = (400, 404, 405, 422, 501)  # statuses for an unknown path or parameter
TRIED = 80  # ids in a place: as many as a reference keeps by default, which is more than many servers allow
INSTEAD = "Use model=vllm or model=local"
# of tokens that are named; the quicker one first
WAYS: Sequence[ScoringMethod] = (SinglePassScoring(), StepwiseScoring())


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids and rendered text of a prompt, as returned by the server."""

    ids: list[int]
    text: str | None


class Scorer:
    """Fetches token ids and log-probabilities of texts from one server, in the server pool's thread."""

    NEEDED = "/tokenize, and echo with logprobs in /v1/completions, as in vLLM and task=serve"

    def __init__(
        self, client: openai.AsyncOpenAI, model: ApiConfig, redact_message: Callable[[object], str]
    ) -> None:
        self.client, self.model = client, model
        self.plain = redact_message  # an error's text without the key
        self._is_able: asyncio.Task[None] | None = None
        self._way: asyncio.Task[ScoringMethod] | None = None
        self._prompts = lru_cache(CACHED_PROMPTS)(self._tokenize_in_background)

    async def score(self, request: Request) -> ScoredContinuation:
        """Return the log-probabilities of a request's continuation. Raises ConfigError if the server does
        not support scoring.
        """
        await self.require_scoring_support()
        prompt, continuation = request.prompt, request.continuation
        if isinstance(continuation, str):
            tokens = await self._cached_tokens(prompt)
            if tokens.text is None:
                raise ConfigError(
                    f"{self._server_label} does not return the rendered chat, so scoring needs task.prompt=text",
                    code="unsupported",
                )
            is_text = isinstance(prompt, str)  # a chat template adds the special tokens itself
            whole = await self._tokenize(prompt=tokens.text + continuation, add_special_tokens=is_text)
            # cut in the same way as by our own engine
            before, given = (tokens.ids, whole.ids[len(tokens.ids) :])
        else:
            before, given = ([part for part in prompt if isinstance(part, int)], list(continuation or ()))
        if not before:
            raise RequestRejected("the prompt has no tokens")
        if not given:
            raise RequestRejected("the continuation has no tokens, so it cannot be scored")
        if not request.required_capabilities & {Capability.token_scores}:
            return await self._score_tokens(before, given)
        way, named = await self.detect_scoring_method(), request.score_token_ids or [[]] * len(given)
        return await way.score(self.model.base_url, self._post_with_model_name, before, given, named)

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, including special tokens."""
        await self.require_scoring_support()
        return [(await self._tokenize(prompt=text)).ids for text in texts]

    async def require_scoring_support(self) -> None:
        """Raise ConfigError if the server cannot score texts. The test request is sent only once."""
        self._is_able = able = _reuse_or_restart_task(self._is_able, self._test_scoring)
        await asyncio.shield(able)

    async def detect_scoring_method(self) -> ScoringMethod:
        """Detect by test requests which scoring method the server supports. The result is cached."""
        self._way = way = _reuse_or_restart_task(self._way, self._find_supported_scoring_method)
        return await asyncio.shield(way)

    async def _test_scoring(self) -> None:
        async def score_sample() -> ScoredContinuation:
            ids = (await self._tokenize(prompt="1 + 1")).ids
            return await self._score_tokens(ids, ids)

        if (lack := await self._explain_if_scoring_unsupported(score_sample(), UNSUPPORTED)) is not None:
            raise ConfigError(
                (
                    f"{self._server_label} cannot compute log-probabilities of a text. That requires "
                    f"{self.NEEDED}{lack}"
                ),
                code="unsupported",
            )

    async def _find_supported_scoring_method(self) -> ScoringMethod:
        await self.require_scoring_support()
        ids, url = (await self._tokenize(prompt="1 + 1")).ids, self.model.base_url
        lacks, named = [], [(ids * TRIED)[:TRIED]] * len(ids)
        for way in WAYS:
            asked = way.score(url, self._post_with_model_name, ids, ids, named)
            if (lack := await self._explain_if_scoring_unsupported(asked, way.UNSUPPORTED)) is None:
                return way
            lacks.append(f"{way.NEEDED}{lack}")
        raise ConfigError(
            (
                f"{self._server_label} cannot be compared with a reference, because it does not return "
                f"log-probabilities of given tokens. {INSTEAD}. Unsupported requests: {'; or '.join(lacks)}"
            ),
            code="unsupported",
        )

    async def _explain_if_scoring_unsupported(
        self, scoring_request: Awaitable[ScoredContinuation], unsupported_statuses: Sequence[int]
    ) -> str | None:
        """Await a scoring request. Returns an explanation if the server does not support it, otherwise
        None.
        """
        try:
            await scoring_request
        except openai.APIStatusError as error:
            if error.status_code not in unsupported_statuses or error.code == "model_not_found":
                raise
            return f", and {error.request.url.path} answered {error.status_code}: {self.plain(error.message)}"
        except RequestFault as fault:
            return f"; {fault}"
        return None

    @property
    def _server_label(self) -> str:
        return f"{self.model.key}.base_url={self.model.base_url}"

    async def _cached_tokens(self, prompt: Prompt) -> TokenizedPrompt:
        tokenizing = self._prompts(prompt)
        try:
            return await asyncio.shield(tokenizing)
        except BaseException:
            self._prompts.cache_clear()  # a failure must not stay in the cache
            raise

    def _tokenize_in_background(self, prompt: Prompt) -> asyncio.Future[TokenizedPrompt]:
        if isinstance(prompt, str):
            return asyncio.ensure_future(self._tokenize(prompt=prompt))
        turns = [part.to_dict() for part in prompt if isinstance(part, Message)]
        return asyncio.ensure_future(self._tokenize_chat(turns))

    async def _tokenize_chat(self, messages: list[dict[str, Any]]) -> TokenizedPrompt:
        """Return the token ids of a chat, and its rendered text if the server supports that."""
        tokens = await self._tokenize(messages=messages, add_generation_prompt=True)
        if tokens.text is not None:
            return tokens
        text = await self._detokenize(tokens.ids)
        if text is None or (await self._tokenize(prompt=text, add_special_tokens=False)).ids != tokens.ids:
            return tokens  # its text would be read as other tokens
        return TokenizedPrompt(tokens.ids, text)

    async def _detokenize(self, ids: list[int]) -> str | None:
        """Convert token ids, including special tokens, to text. Returns None if the server cannot
        detokenize.
        """
        try:
            body = {"model": self.model.name, "tokens": ids}
            answer = await self._post_outside_openai_api("detokenize", body)
        except openai.APIStatusError as error:
            if error.status_code in UNSUPPORTED:
                return None
            raise
        text = answer.get("prompt") if isinstance(answer, dict) else None
        return text if isinstance(text, str) else None

    async def _post_with_model_name(self, path: str, body: dict[str, Any]) -> Any:
        sent = {"model": self.model.name, **body}
        if path.startswith("/"):
            return await self.client.post(path, body=sent, cast_to=object)
        return await self._post_outside_openai_api(path, sent)

    async def _post_outside_openai_api(self, path_suffix: str, body: dict[str, Any]) -> Any:
        """Send a POST request to a path outside OpenAI's API, and return the response."""
        path = f"{self.model.base_url.removesuffix('/v1')}/{path_suffix}"
        return await self.client.post(path, body=body, cast_to=object)

    async def _tokenize(self, **parameters: Any) -> TokenizedPrompt:
        body = {"model": self.model.name, **parameters}
        answer = await self._post_outside_openai_api("tokenize", body)
        ids = self._parse_token_ids(answer)
        text = answer.get("prompt", parameters.get("prompt"))
        return TokenizedPrompt(ids, text if isinstance(text, str) else None)

    def _parse_token_ids(self, response: Any) -> list[int]:
        ids = response.get("tokens") if isinstance(response, dict) else None
        if not isinstance(ids, list) or not all(
            isinstance(identifier, int) and identifier >= 0 for identifier in ids
        ):
            raise RequestFault(
                f"{self.model.base_url} answered /tokenize without tokens", "sent no valid answer"
            )
        return ids

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Convert token ids to text. If the server cannot detokenize, returns the list of ids as text."""
        text = await self._detokenize([*ids]) if ids else ""
        return f"{[*ids]}" if text is None else text

    async def _score_tokens(self, prefix: list[int], continuation: list[int]) -> ScoredContinuation:
        ids = prefix + continuation
        answer: Any = await self.client.completions.create(
            model=self.model.name, prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0
        )
        scores = getattr(next(iter(getattr(answer, "choices", None) or []), None), "logprobs", None)
        values, tops = (getattr(scores, "token_logprobs", None), getattr(scores, "top_logprobs", None))
        if not (isinstance(values, list) and isinstance(tops, list) and len(tops) == len(values) >= len(ids)):
            raise RequestFault(
                f"{self.model.base_url} did not send a log-probability for each token", "sent no valid answer"
            )
        positions = range(len(prefix), len(ids))
        logprobs = [parse_logprob(self.model.base_url, values[at]) for at in positions]
        best = []
        for at in positions:
            offered = (tops[at] or {}).values()
            known = (parse_logprob(self.model.base_url, logprob) for logprob in offered)
            best.append(max(known, default=-math.inf))
        greedy = [own >= other for own, other in zip(logprobs, best, strict=True)]
        return ScoredContinuation(len(prefix), continuation, logprobs, greedy)


def _reuse_or_restart_task(
    task: asyncio.Task[T] | None, start: Callable[[], Coroutine[Any, Any, T]]
) -> asyncio.Task[T]:
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        return asyncio.ensure_future(start())
    return task
