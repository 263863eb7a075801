"""Log-probabilities from a server: it says which tokens a text has, and how probable each token of a prompt is.

That takes `/tokenize`, and in `/v1/completions` an echo with log-probabilities: vLLM has both, and our own task=serve.
Whether a server has them is found out once, by asking for two tokens.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import openai

from runner.core.errors import ConfigError
from runner.engines.base import Message, Prompt, Request
from runner.engines.remote.faults import Fault, RequestRejected

if TYPE_CHECKING:
    from runner.engines.remote.server import ServerConnection

KEPT_PROMPTS = 1024  # whose tokens are remembered: the choices of a question share one
NOT_THERE = (400, 404, 405, 422, 501)  # how servers say that they have no such path or parameter
NEEDED = "/tokenize and, in /v1/completions, echo with logprobs, as vLLM and task=serve have"


@dataclass(frozen=True)
class ScoredContinuation:
    """What a server says of a continuation: its tokens, and how probable each of them is."""

    prompt_tokens: int
    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]


@dataclass(frozen=True)
class Tokens:
    """A prompt as its server sees it; `text` of a chat is what the server's template makes of it."""

    ids: list[int]
    text: str | None


class Scorer:
    """Asks a server for the tokens of texts and for their log-probabilities; works in the server's thread."""

    def __init__(self, server: ServerConnection) -> None:
        self.server, self.model = server, server.model
        self._is_able: asyncio.Task[None] | None = None
        self._prompts = lru_cache(KEPT_PROMPTS)(self._asking)

    async def score(self, request: Request) -> ScoredContinuation:
        """Return how probable the continuation of a request is; ConfigError where the server has no way to say it."""
        await self.check()
        prompt, continuation = request.prompt, request.continuation
        if isinstance(continuation, str):
            begun = await self._tokens_of(prompt)
            if begun.text is None:
                raise ConfigError(f"{self._who} does not say what a chat looks like to its model: use task.prompt=text")
            is_text = isinstance(prompt, str)  # a chat's template has put the special tokens
            whole = await self._tokenize(prompt=begun.text + continuation, add_special_tokens=is_text)
            before, given = begun.ids, whole.ids[len(begun.ids) :]  # cut as our own engine cuts it
        else:
            before, given = [part for part in prompt if isinstance(part, int)], list(continuation or ())
        if not before or not given:
            what = "continuation has no tokens, so there is nothing to score" if before else "prompt has no tokens"
            raise RequestRejected(f"the {what}")
        return await self._score(before, given)

    async def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, special ones too."""
        await self.check()
        return [(await self._tokenize(prompt=text)).ids for text in texts]

    async def check(self) -> None:
        """Find out, once, whether the server has what is needed."""
        able = self._is_able
        if able is None or (able.done() and (able.cancelled() or able.exception() is not None)):
            self._is_able = able = asyncio.ensure_future(self._try())
        await asyncio.shield(able)

    async def _try(self) -> None:
        try:
            ids = (await self._tokenize(prompt="1 + 1")).ids
            await self._score(ids, ids)
        except openai.APIStatusError as error:
            if error.status_code not in NOT_THERE or error.code == "model_not_found":
                raise
            said = f"{error.request.url.path} answered {error.status_code}: {self.server.plain(error.message)}"
            raise ConfigError(
                f"{self._who} gives no log-probabilities of a text: that takes {NEEDED}, and {said}"
            ) from None
        except Fault as fault:
            raise ConfigError(
                f"{self._who} gives no log-probabilities of a text: that takes {NEEDED}; {fault}"
            ) from None

    @property
    def _who(self) -> str:
        return f"{self.model.key}.base_url={self.model.base_url}"

    async def _tokens_of(self, prompt: Prompt) -> Tokens:
        asking = self._prompts(prompt)
        try:
            return await asyncio.shield(asking)
        except BaseException:
            self._prompts.cache_clear()  # what failed is asked for again
            raise

    def _asking(self, prompt: Prompt) -> asyncio.Future[Tokens]:
        if isinstance(prompt, str):
            return asyncio.ensure_future(self._tokenize(prompt=prompt))
        turns = [asdict(part) for part in prompt if isinstance(part, Message)]
        return asyncio.ensure_future(self._tokenize(messages=turns, add_generation_prompt=True))

    async def _tokenize(self, **what: Any) -> Tokens:
        url = f"{self.model.base_url.removesuffix('/v1')}/tokenize"
        answer: Any = await self.server.client.post(url, body={"model": self.model.name, **what}, cast_to=object)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(isinstance(one, int) and one >= 0 for one in ids):
            raise Fault(f"{self.model.base_url} answered /tokenize without tokens", "sent what is no answer")
        text = answer.get("prompt", what.get("prompt"))
        return Tokens(ids, text if isinstance(text, str) else None)

    async def _score(self, before: list[int], given: list[int]) -> ScoredContinuation:
        ids = before + given
        answer: Any = await self.server.client.completions.create(
            model=self.model.name, prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0
        )
        said = getattr(next(iter(getattr(answer, "choices", None) or []), None), "logprobs", None)
        values, tops = getattr(said, "token_logprobs", None), getattr(said, "top_logprobs", None)
        if not (isinstance(values, list) and isinstance(tops, list) and len(tops) == len(values) >= len(ids)):
            raise Fault(f"{self.model.base_url} sent no log-probability for each token", "sent what is no answer")
        places = range(len(before), len(ids))
        logprobs = [_logarithm(self.model.base_url, values[at]) for at in places]
        best = [max((_logarithm(self.model.base_url, one) for one in (tops[at] or {}).values()), default=-math.inf)
                for at in places]  # fmt: skip
        greedy = [own >= other for own, other in zip(logprobs, best, strict=True)]
        return ScoredContinuation(len(before), given, logprobs, greedy)


def _logarithm(url: str, value: object) -> float:
    """Return the logarithm of a probability; Fault where it cannot be one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value <= 1e-3:
        return float(value)
    raise Fault(f"{url} sent a log-probability that cannot be one", "sent what is no answer")
