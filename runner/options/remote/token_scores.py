"""Fetches log-probabilities of prompt tokens, likeliest tokens and requested token ids from a vLLM server.

`SinglePassScoring` scores all positions in one request (vLLM's model runner V2).
`StepwiseScoring` requests one token at a time and works with any runner of vLLM. The server
caches the prefix, so each token costs one decoding step.
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

from runner.options.remote.faults import RequestFault

# a path of the server, or, with a slash, of its API of OpenAI, and what is sent
PostJson = Callable[[str, dict[str, Any]], Awaitable[Any]]
TokenIds = Sequence[int]
MOST = 1e-3  # of a log-probability, by rounding
ROUNDING = 0.1  # nats a token, on average, that two computations of the same number may be apart
LEAST = -9999.0  # what vLLM writes for a probability of 0
AT_ONCE = 128  # ids that vLLM takes for one token


@dataclass(frozen=True)
class ScoredContinuation:
    """Token ids and log-probabilities of a continuation, as returned by a server."""

    prompt_tokens: int
    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]
    firsts: list[tuple[int, float]] | None = None  # the likeliest token in each place
    named: list[list[float]] | None = None  # of the tokens that the request names in each place

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]] | None:
        """Likeliest token at each position with its log-probability, or None if the server did not report
        it.
        """
        return None if self.firsts is None else [[first] for first in self.firsts]


class ScoringMethod(Protocol):
    """Interface for fetching the log-probabilities of requested token ids from a vLLM server."""

    NEEDED: ClassVar[str]
    UNSUPPORTED: ClassVar[Sequence[int]]  # statuses of a server that does not have it

    async def score(
        self,
        url: str,
        post: PostJson,
        prefix: TokenIds,
        continuation: TokenIds,
        token_ids: Sequence[TokenIds],
    ) -> ScoredContinuation:
        """Return the log-probabilities of a continuation after a prefix. Raises RequestFault if any of
        them is missing.
        """


class SinglePassScoring:
    """Scores a text with a single request, which names the requested token ids of all positions.

    Each position's ids include the text's own token, which the server then scores twice.
    Contradicting scores reveal a server that scores other positions.
    """

    PARAMETER = "prompt_logprob_token_ids"
    NEEDED: ClassVar[str] = f"/inference/v1/generate with {PARAMETER} (vLLM: --enable-scale-out)"
    UNSUPPORTED: ClassVar[Sequence[int]] = (400, 403, 404, 405, 422, 501)  # 403: switched off

    async def score(
        self,
        url: str,
        post: PostJson,
        prefix: TokenIds,
        continuation: TokenIds,
        token_ids: Sequence[TokenIds],
    ) -> ScoredContinuation:
        """Score all positions in one request."""
        rows = [[own, *some] for own, some in zip(continuation, token_ids, strict=True)]
        sampling = {
            "max_tokens": 1,
            "temperature": 0,
            "detokenize": False,
            "prompt_logprobs": 1,
            self.PARAMETER: rows,
            "prompt_logprob_start": len(prefix) - 1,
        }
        body = {"token_ids": [*prefix, *continuation], "sampling_params": sampling}
        answer = await post("inference/v1/generate", body)
        fields: dict[str, Any] = answer if isinstance(answer, dict) else {}
        told = _parse_prompt_logprobs(url, fields.get("prompt_logprobs"), len(prefix), continuation)
        scores = self._decode_scores(url, fields.get("prompt_token_id_logprobs"), (len(rows), len(rows[0])))
        own = [own for own, _ in told]
        gaps = [abs(max(row[0], LEAST) - value) for row, value in zip(scores, own, strict=True)]
        if math.fsum(gaps) > ROUNDING * len(gaps):
            raise _invalid_response_fault(
                f"{url} sent inconsistent log-probabilities: {self.PARAMETER} and prompt_logprobs differ "
                "for the same tokens"
            )
        firsts = [first for _, first in told]
        return make_scored_continuation(len(prefix), continuation, own, firsts, [row[1:] for row in scores])

    def _decode_scores(self, url: str, encoded_scores: Any, shape: tuple[int, int]) -> list[list[float]]:
        """Decode the log-probability array of a response into one list per position."""
        import numpy as np  # takes a tenth of a second, and only comparisons need it

        if not isinstance(encoded_scores, str):
            raise _invalid_response_fault(f"{url} ignores {self.PARAMETER}: its answer has no such field")
        try:
            content = io.BytesIO(base64.b64decode(encoded_scores, validate=True))
            rows: Any = np.load(content, allow_pickle=False)
        except (binascii.Error, ValueError, EOFError, OSError):
            raise _invalid_response_fault(f"{url} sent no array for {self.PARAMETER}") from None
        if rows.shape != shape or rows.dtype.kind != "f":
            sizes = " × ".join(map(str, rows.shape))
            asked = " × ".join(map(str, shape))
            raise _invalid_response_fault(
                f"{url} sent an array of {sizes} for {self.PARAMETER}, but {asked} was requested"
            )
        if np.isnan(rows).any() or (rows > MOST).any():
            raise invalid_logprob_fault(url)
        found: list[list[float]] = rows.astype(float).tolist()
        return found


class StepwiseScoring:
    """Scores a text with one request per position, each for the log-probabilities of the next token."""

    PARAMETER = "logprob_token_ids"
    NEEDED: ClassVar[str] = f"/v1/completions with {PARAMETER}"
    UNSUPPORTED: ClassVar[Sequence[int]] = (400, 404, 405, 422, 501)

    async def score(
        self,
        url: str,
        post: PostJson,
        prefix: TokenIds,
        continuation: TokenIds,
        token_ids: Sequence[TokenIds],
    ) -> ScoredContinuation:
        own, firsts, rows = [], [], []
        for at, some in enumerate(token_ids):
            ids = [continuation[at], *some]
            found: dict[int, float] = {}
            for begin in range(0, len(ids), AT_ONCE):
                part = [*dict.fromkeys(ids[begin : begin + AT_ONCE])]
                first, scores = await self._score_next_token(url, post, [*prefix, *continuation[:at]], part)
                found |= scores
            own.append(found[continuation[at]])
            firsts.append(first)
            rows.append([found[token] for token in some])
        return make_scored_continuation(len(prefix), continuation, own, firsts, rows)

    async def _score_next_token(
        self, url: str, post: PostJson, prefix: TokenIds, requested_ids: TokenIds
    ) -> tuple[tuple[int, float], dict[int, float]]:
        body = {
            "prompt": prefix,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": len(requested_ids),
            self.PARAMETER: requested_ids,
            "return_tokens_as_token_ids": True,
        }
        answer = await post("/completions", body)
        try:
            told = answer["choices"][0]["logprobs"]
            (name,), (best,), (top,) = told["tokens"], told["token_logprobs"], told["top_logprobs"]
            scores = {_parse_token_id(key): parse_logprob(url, value) for key, value in top.items()}
            first = _parse_token_id(name), parse_logprob(url, best)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise _invalid_response_fault(f"{url} sent log-probabilities without token ids") from None
        lacking = [token for token in requested_ids if token not in scores]
        if lacking:
            raise _invalid_response_fault(
                f"{url} ignores {self.PARAMETER}: {len(lacking)} of {len(requested_ids)} ids are missing in its answer"
            )
        return first, scores


def make_scored_continuation(
    prompt_tokens: int,
    continuation: TokenIds,
    logprobs: list[float],
    likeliest_tokens: list[tuple[int, float]],
    requested_logprobs: list[list[float]],
) -> ScoredContinuation:
    """Build a scored continuation. A token counts as greedy if no other token is likelier."""
    greedy = [value >= best for value, (_, best) in zip(logprobs, likeliest_tokens, strict=True)]
    return ScoredContinuation(
        prompt_tokens, [*continuation], logprobs, greedy, likeliest_tokens, requested_logprobs
    )


def _parse_prompt_logprobs(
    url: str, positions: Any, start: int, continuation: TokenIds
) -> list[tuple[float, tuple[int, float]]]:
    """Parse the log-probability of each given token, and the likeliest token with its log-probability."""
    if not isinstance(positions, list) or len(positions) != start + len(continuation):
        raise _invalid_response_fault(f"{url} did not send a log-probability for each token")
    found = []
    for token, place in zip(continuation, positions[start:], strict=True):
        try:
            told = [(int(name), score["logprob"], score["rank"]) for name, score in place.items()]
            told.sort(key=lambda score: (-parse_logprob(url, score[1]), score[2]))
            own = next(value for name, value, _ in told if name == token)
        except (AttributeError, LookupError, TypeError, ValueError, StopIteration):
            raise _invalid_response_fault(f"{url} sent log-probabilities without token ids") from None
        found.append((float(own), (told[0][0], float(told[0][1]))))
    return found


def _parse_token_id(token_name: str) -> int:
    """Parse the token id from a vLLM token name such as `token_id:42`."""
    found = re.fullmatch(r"token_id:(\d+)", token_name)
    if found is None:
        raise ValueError(token_name)
    return int(found[1])


def parse_logprob(url: str, value: object) -> float:
    """Parse a log-probability of a response. Raises RequestFault for a value that is not finite or
    too large.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value <= MOST:
        return float(value)
    raise invalid_logprob_fault(url)


def invalid_logprob_fault(url: str) -> RequestFault:
    return _invalid_response_fault(f"{url} sent an impossible log-probability")


def _invalid_response_fault(message: str) -> RequestFault:
    return RequestFault(message, "sent no valid answer")
