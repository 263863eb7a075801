"""Log-probabilities from a server, which returns the tokens of a text and the log-probability of
each prompt token.

This needs `/tokenize`, and an echo with log-probabilities in `/v1/completions`: vLLM and our
task=serve have both. A first small request finds out whether a server has them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import openai

from runner.options.remote.faults import Fault, RequestRejected
from runner.options.remote.keys import ApiConfig
from runner.options.remote.token_scores import InOnePass, ScoredContinuation, StepByStep, Way, logarithm
from runner_base import ConfigError
from runner_engine import Capability, Message, Prompt, Request

T = TypeVar("T")
CACHED_PROMPTS = 1024  # their tokens are cached, because the choices of a question share a prompt
UNSUPPORTED = (400, 404, 405, 422, 501)  # statuses for an unknown path or parameter
TRIED = 80  # ids in a place: as many as a reference keeps by default, which is more than many servers allow
INSTEAD = "use model=vllm, which starts such a server, or model=local, whose engine reads whole distributions"
WAYS: Sequence[Way] = (InOnePass(), StepByStep())  # of tokens that are named; the quicker one first


@dataclass(frozen=True)
class Tokens:
    """A prompt as the server sees it; for a chat, `text` is rendered by the server's template."""

    ids: list[int]
    text: str | None


class Scorer:
    """Asks a server for the tokens of texts and their log-probabilities, in the thread of its
    pool."""

    NEEDED = "/tokenize and, in /v1/completions, echo with logprobs, as vLLM and task=serve have"

    def __init__(self, client: openai.AsyncOpenAI, model: ApiConfig, plain: Callable[[object], str]) -> None:
        self.client, self.model = client, model
        self.plain = plain  # an error's text without the key
        self._is_able: asyncio.Task[None] | None = None
        self._way: asyncio.Task[Way] | None = None
        self._prompts = lru_cache(CACHED_PROMPTS)(self._start_tokenizing)

    async def score(self, request: Request) -> ScoredContinuation:
        """Return the scores of a request's continuation; ConfigError if the server cannot compute
        them."""
        await self.check()
        prompt, continuation = request.prompt, request.continuation
        if isinstance(continuation, str):
            tokens = await self._tokens_of(prompt)
            if tokens.text is None:
                raise ConfigError(
                    f"{self._server_key} does not return the text of a chat: use task.prompt=text",
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
            raise RequestRejected("the continuation has no tokens, so there is nothing to score")
        if not request.needs & {Capability.token_scores}:
            return await self._score(before, given)
        way, named = await self.check_named(), request.score_token_ids or [[]] * len(given)
        return await way.score(self.model.base_url, self._post_named, before, given, named)

    async def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, including special tokens."""
        await self.check()
        return [(await self._tokenize(prompt=text)).ids for text in texts]

    async def check(self) -> None:
        """Find out, once, whether the server supports this."""
        self._is_able = able = _again(self._is_able, self._try)
        await asyncio.shield(able)

    async def check_named(self) -> Way:
        """Return how the server tells log-probabilities of tokens that are named, found out once."""
        self._way = way = _again(self._way, self._try_named)
        return await asyncio.shield(way)

    async def _try(self) -> None:
        async def ask() -> ScoredContinuation:
            ids = (await self._tokenize(prompt="1 + 1")).ids
            return await self._score(ids, ids)

        if (lack := await self._lack(ask(), UNSUPPORTED)) is not None:
            raise ConfigError(
                f"{self._server_key} has no log-probabilities of a text: they need {self.NEEDED}{lack}",
                code="unsupported",
            )

    async def _try_named(self) -> Way:
        await self.check()
        ids, url = (await self._tokenize(prompt="1 + 1")).ids, self.model.base_url
        lacks, named = [], [(ids * TRIED)[:TRIED]] * len(ids)
        for way in WAYS:
            asked = way.score(url, self._post_named, ids, ids, named)
            if (lack := await self._lack(asked, way.UNSUPPORTED)) is None:
                return way
            lacks.append(f"{way.NEEDED}{lack}")
        raise ConfigError(
            f"{self._server_key} tells no log-probabilities of tokens that are named, which a reference needs: "
            f"{INSTEAD}. They need {'; or '.join(lacks)}",
            code="unsupported",
        )

    async def _lack(self, asked: Awaitable[ScoredContinuation], unsupported: Sequence[int]) -> str | None:
        """Return why a server does not have what it is asked for; None: it has."""
        try:
            await asked
        except openai.APIStatusError as error:
            if error.status_code not in unsupported or error.code == "model_not_found":
                raise
            return f", and {error.request.url.path} answered {error.status_code}: {self.plain(error.message)}"
        except Fault as fault:
            return f"; {fault}"
        return None

    @property
    def _server_key(self) -> str:
        return f"{self.model.key}.base_url={self.model.base_url}"

    async def _tokens_of(self, prompt: Prompt) -> Tokens:
        tokenizing = self._prompts(prompt)
        try:
            return await asyncio.shield(tokenizing)
        except BaseException:
            self._prompts.cache_clear()  # a failure must not stay in the cache
            raise

    def _start_tokenizing(self, prompt: Prompt) -> asyncio.Future[Tokens]:
        if isinstance(prompt, str):
            return asyncio.ensure_future(self._tokenize(prompt=prompt))
        turns = [part.as_dict() for part in prompt if isinstance(part, Message)]
        return asyncio.ensure_future(self._tokenize_chat(turns))

    async def _tokenize_chat(self, turns: list[dict[str, Any]]) -> Tokens:
        """Return a chat's tokens, with the text of its template: from the server, or from its
        tokens."""
        tokens = await self._tokenize(messages=turns, add_generation_prompt=True)
        if tokens.text is not None:
            return tokens
        text = await self._detokenize(tokens.ids)
        if text is None or (await self._tokenize(prompt=text, add_special_tokens=False)).ids != tokens.ids:
            return tokens  # its text would be read as other tokens
        return Tokens(tokens.ids, text)

    async def _detokenize(self, ids: list[int]) -> str | None:
        """Return the text of tokens, with special tokens; None if the server does not say it."""
        try:
            body = {"model": self.model.name, "tokens": ids}
            answer = await self._post("detokenize", body)
        except openai.APIStatusError as error:
            if error.status_code in UNSUPPORTED:
                return None
            raise
        text = answer.get("prompt") if isinstance(answer, dict) else None
        return text if isinstance(text, str) else None

    async def _post_named(self, path: str, body: dict[str, Any]) -> Any:
        sent = {"model": self.model.name, **body}
        if path.startswith("/"):
            return await self.client.post(path, body=sent, cast_to=object)
        return await self._post(path, sent)

    async def _post(self, name: str, body: dict[str, Any]) -> Any:
        """Return the answer of a path beside those of OpenAI."""
        path = f"{self.model.base_url.removesuffix('/v1')}/{name}"
        return await self.client.post(path, body=body, cast_to=object)

    async def _tokenize(self, **parameters: Any) -> Tokens:
        body = {"model": self.model.name, **parameters}
        answer = await self._post("tokenize", body)
        ids = self._ids(answer)
        text = answer.get("prompt", parameters.get("prompt"))
        return Tokens(ids, text if isinstance(text, str) else None)

    def _ids(self, answer: Any) -> list[int]:
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(
            isinstance(identifier, int) and identifier >= 0 for identifier in ids
        ):
            raise Fault(f"{self.model.base_url} answered /tokenize without tokens", "sent no valid answer")
        return ids

    async def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; their ids where the server does not say it."""
        text = await self._detokenize([*ids]) if ids else ""
        return f"{[*ids]}" if text is None else text

    async def _score(self, before: list[int], given: list[int]) -> ScoredContinuation:
        ids = before + given
        answer: Any = await self.client.completions.create(
            model=self.model.name, prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0
        )
        scores = getattr(next(iter(getattr(answer, "choices", None) or []), None), "logprobs", None)
        values, tops = (getattr(scores, "token_logprobs", None), getattr(scores, "top_logprobs", None))
        if not (isinstance(values, list) and isinstance(tops, list) and len(tops) == len(values) >= len(ids)):
            raise Fault(
                f"{self.model.base_url} sent no log-probability for each token", "sent no valid answer"
            )
        positions = range(len(before), len(ids))
        logprobs = [logarithm(self.model.base_url, values[at]) for at in positions]
        best = []
        for at in positions:
            offered = (tops[at] or {}).values()
            known = (logarithm(self.model.base_url, logprob) for logprob in offered)
            best.append(max(known, default=-math.inf))
        greedy = [own >= other for own, other in zip(logprobs, best, strict=True)]
        return ScoredContinuation(len(before), given, logprobs, greedy)


def _again(task: asyncio.Task[T] | None, ask: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
    """Return the task that finds something out, which is started again if it has failed."""
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        return asyncio.ensure_future(ask())
    return task
