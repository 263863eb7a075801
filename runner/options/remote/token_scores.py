"""Log-probabilities of a text's tokens, of the likeliest one in each place, and of tokens that are
named: what a comparison with a reference needs, as vLLM's server tells them.

There are two ways. `InOnePass` has all places of a text by one request (vLLM's model runner V2).
`StepByStep` asks for each token as the next one, as any runner of vLLM answers: what is before it
stays in the server's cache, and each token costs a step of decoding.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from runner.options.remote.faults import Fault

# a path of the server, or, with a slash, of its API of OpenAI, and what is sent
Post = Callable[[str, dict[str, Any]], Awaitable[Any]]
Ids = Sequence[int]
MOST = 1e-3  # of a log-probability, by rounding
ROUNDING = 0.1  # nats a token, on average, that two computations of the same number may be apart
LEAST = -9999.0  # what vLLM writes for a probability of 0
AT_ONCE = 128  # ids that vLLM takes for one token


@dataclass(frozen=True)
class ScoredContinuation:
    """A server's scores of a continuation: its tokens, and the log-probability of each."""

    prompt_tokens: int
    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]
    firsts: list[tuple[int, float]] | None = None  # the likeliest token in each place
    named: list[list[float]] | None = None  # of the tokens that the request names in each place

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]] | None:
        """The likeliest tokens as a completion has them."""
        return None if self.firsts is None else [[first] for first in self.firsts]


class Way(Protocol):
    """How a server is asked for tokens that are named."""

    NEEDED: ClassVar[str]
    UNSUPPORTED: ClassVar[Sequence[int]]  # statuses of a server that does not have it

    async def score(
        self, url: str, post: Post, before: Ids, given: Ids, named: Sequence[Ids]
    ) -> ScoredContinuation:
        """Return the scores of `given` behind `before`; Fault if not all of them are told."""


class InOnePass:
    """The ids in each place are sent with the text. Each row has the text's own token, too, which
    is told twice: so a server that scores other places is found."""

    PARAMETER = "prompt_logprob_token_ids"
    NEEDED: ClassVar[str] = f"/inference/v1/generate with {PARAMETER} (vLLM: --enable-scale-out)"
    UNSUPPORTED: ClassVar[Sequence[int]] = (400, 403, 404, 405, 422, 501)  # 403: switched off

    async def score(
        self, url: str, post: Post, before: Ids, given: Ids, named: Sequence[Ids]
    ) -> ScoredContinuation:
        """Return the scores of all places by one request."""
        rows = [[own, *some] for own, some in zip(given, named, strict=True)]
        sampling = {
            "max_tokens": 1,
            "temperature": 0,
            "detokenize": False,
            "prompt_logprobs": 1,
            self.PARAMETER: rows,
            "prompt_logprob_start": len(before) - 1,
        }
        body = {"token_ids": [*before, *given], "sampling_params": sampling}
        answer = await post("inference/v1/generate", body)
        fields: dict[str, Any] = answer if isinstance(answer, dict) else {}
        told = _likeliest(url, fields.get("prompt_logprobs"), len(before), given)
        scores = self._rows(url, fields.get("prompt_token_id_logprobs"), (len(rows), len(rows[0])))
        own = [own for own, _ in told]
        gaps = [abs(max(row[0], LEAST) - value) for row, value in zip(scores, own, strict=True)]
        if math.fsum(gaps) > ROUNDING * len(gaps):
            raise _invalid(
                f"{url} contradicts itself: by {self.PARAMETER} the text's own tokens have other log-probabilities "
                "than by prompt_logprobs"
            )
        firsts = [first for _, first in told]
        return scored(len(before), given, own, firsts, [row[1:] for row in scores])

    def _rows(self, url: str, packed: Any, shape: tuple[int, int]) -> list[list[float]]:
        """Return the array of an answer, place by place."""
        import numpy as np  # takes a tenth of a second, and only comparisons need it

        if not isinstance(packed, str):
            raise _invalid(f"{url} ignores {self.PARAMETER}: its answer has none")
        try:
            content = io.BytesIO(base64.b64decode(packed, validate=True))
            rows: Any = np.load(content, allow_pickle=False)
        except (binascii.Error, ValueError, EOFError, OSError):
            raise _invalid(f"{url} sent no array by {self.PARAMETER}") from None
        if rows.shape != shape or rows.dtype.kind != "f":
            sizes = " × ".join(map(str, rows.shape))
            asked = " × ".join(map(str, shape))
            raise _invalid(f"{url} sent {sizes} numbers by {self.PARAMETER}, and {asked} were asked for")
        if np.isnan(rows).any() or (rows > MOST).any():
            raise impossible(url)
        found: list[list[float]] = rows.astype(float).tolist()
        return found


class StepByStep:
    """Each token of the text is asked for as the next one: the likeliest comes with the scores of
    the ids."""

    PARAMETER = "logprob_token_ids"
    NEEDED: ClassVar[str] = f"/v1/completions with {PARAMETER}"
    UNSUPPORTED: ClassVar[Sequence[int]] = (400, 404, 405, 422, 501)

    async def score(
        self, url: str, post: Post, before: Ids, given: Ids, named: Sequence[Ids]
    ) -> ScoredContinuation:
        """Return the scores of one place after another."""
        own, firsts, rows = [], [], []
        for at, some in enumerate(named):
            ids = [given[at], *some]
            found: dict[int, float] = {}
            for begin in range(0, len(ids), AT_ONCE):
                part = [*dict.fromkeys(ids[begin : begin + AT_ONCE])]
                first, scores = await self._next(url, post, [*before, *given[:at]], part)
                found |= scores
            own.append(found[given[at]])
            firsts.append(first)
            rows.append([found[token] for token in some])
        return scored(len(before), given, own, firsts, rows)

    async def _next(
        self, url: str, post: Post, before: Ids, ids: Ids
    ) -> tuple[tuple[int, float], dict[int, float]]:
        """Return the likeliest token behind others, and the scores of the ids there."""
        body = {
            "prompt": before,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": len(ids),
            self.PARAMETER: ids,
            "return_tokens_as_token_ids": True,
        }
        answer = await post("/completions", body)
        try:
            told = answer["choices"][0]["logprobs"]
            (name,), (best,), (top,) = told["tokens"], told["token_logprobs"], told["top_logprobs"]
            scores = {_id(key): logarithm(url, value) for key, value in top.items()}
            first = _id(name), logarithm(url, best)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise _invalid(f"{url} sent no log-probabilities by ids of tokens") from None
        lacking = [token for token in ids if token not in scores]
        if lacking:
            raise _invalid(
                f"{url} ignores {self.PARAMETER}: {len(lacking)} of {len(ids)} ids are not in its answer"
            )
        return first, scores


def scored(
    prompt_tokens: int,
    given: Ids,
    own: list[float],
    firsts: list[tuple[int, float]],
    named: list[list[float]],
) -> ScoredContinuation:
    """Return the scores of a text; its own token is a first choice if none is likelier."""
    greedy = [value >= best for value, (_, best) in zip(own, firsts, strict=True)]
    return ScoredContinuation(prompt_tokens, [*given], own, greedy, firsts, named)


def _likeliest(url: str, places: Any, begin: int, given: Ids) -> list[tuple[float, tuple[int, float]]]:
    """Return the score of a text's own token in each place, and the likeliest one there."""
    if not isinstance(places, list) or len(places) != begin + len(given):
        raise _invalid(f"{url} sent no log-probability for each token")
    found = []
    for token, place in zip(given, places[begin:], strict=True):
        try:
            told = [(int(name), score["logprob"], score["rank"]) for name, score in place.items()]
            told.sort(key=lambda score: (-logarithm(url, score[1]), score[2]))
            own = next(value for name, value, _ in told if name == token)
        except (AttributeError, LookupError, TypeError, ValueError, StopIteration):
            raise _invalid(f"{url} sent no log-probabilities by ids of tokens") from None
        found.append((float(own), (told[0][0], float(told[0][1]))))
    return found


def _id(name: str) -> int:
    """Return the id of a token that is written as vLLM writes it on request."""
    found = re.fullmatch(r"token_id:(\d+)", name)
    if found is None:
        raise ValueError(name)
    return int(found[1])


def logarithm(url: str, value: object) -> float:
    """Return a log-probability; Fault if the value cannot be one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value <= MOST:
        return float(value)
    raise impossible(url)


def impossible(url: str) -> Fault:
    """Return the fault of a server that sends numbers that are no log-probabilities."""
    return _invalid(f"{url} sent an impossible log-probability")


def _invalid(message: str) -> Fault:
    return Fault(message, "sent no valid answer")
