"""Estimates, with a Kaplan-Meier curve, the token limit within which truncated answers would have
finished.

A truncated answer would have taken more tokens than it has: how many more is unknown, but that
it took so many counts. The finished answers alone are the short ones, so a quantile of theirs
is too small. Beyond the longest finished answer the curve is undefined: where all answers have
one limit, it ends at the share that finished.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner_base import Answer, FinishReason
from runner_base.notes import Note, note
from runner_compare.statistics import exact_interval

WANTED = 0.95  # the share of answers that are to finish


class AnswerLength(NamedTuple):
    """Number of tokens in an answer, and whether the answer ended by itself. A truncated answer would be
    longer.
    """

    tokens: int
    finished: bool


class LimitCost(NamedTuple):
    """Upper bounds of the additional tokens and seconds that a larger token limit costs."""

    tokens: int
    seconds: float | None  # None: no speed is known


@dataclass(frozen=True)
class FinishingCurve:
    """Estimated share of answers that finish within a number of tokens."""

    lengths: Sequence[AnswerLength]
    reached: float  # the largest share that the curve reaches
    tokens: int | None = None  # within so many, the share that is wanted finishes; None: it cannot be told
    low: int | None = None  # of the 95 % interval of these tokens; None: no length is enough to be its end
    high: int | None = None

    @classmethod
    def from_lengths(cls, lengths: Iterable[AnswerLength], target_share: float = WANTED) -> FinishingCurve:
        """Estimate the curve from answer lengths. The confidence interval is exact for Peto's effective
        sample size.
        """
        ordered = sorted(lengths)
        every, open_share, worth = [length.tokens for length in ordered], 1.0, len(ordered)
        found: dict[str, int] = {}
        for tokens, ended in Counter(length.tokens for length in ordered if length.finished).items():
            at_risk = len(every) - bisect_left(every, tokens)
            open_share *= 1 - ended / at_risk
            if at_risk > ended:
                worth = round((at_risk - ended) / open_share)
            ends = exact_interval(round((1 - open_share) * worth), worth)
            for name, share in zip(("high", "low", "tokens"), (*ends, 1 - open_share), strict=True):
                if share >= target_share - 1e-12:
                    found.setdefault(name, tokens)
        return cls(ordered, 1 - open_share, **found)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics: the share of finished answers, and the token limit within which 95 % finish, if it can be
        estimated.
        """
        known = {} if self.tokens is None else {"max_new_tokens_for_95_percent": self.tokens}
        return {"finished_share": self.reached} | known

    def advice_note(self, token_limit: int, tok_per_s: float | None) -> Note:
        """Return a note with the token limit within which 95 % of answers finish, and its cost at a decode
        speed.
        """
        if self.tokens is None:
            return note(
                "enough_tokens_unknown",
                wanted=WANTED,
                reached=self.reached,
                limit=token_limit,
                longer=2 * token_limit,
                price=self._max_limit_cost(2 * token_limit, tok_per_s),
            )
        price = None if self.tokens <= token_limit else self._max_limit_cost(self.tokens, tok_per_s)
        found = {"tokens": self.tokens, "low": self.low, "high": self.high, "price": price}
        return note("enough_tokens", wanted=WANTED, **found)

    def _max_limit_cost(self, token_limit: int, tok_per_s: float | None) -> LimitCost:
        """Return the cost of another token limit if all truncated answers use it fully."""
        more = sum(max(0, token_limit - length.tokens) for length in self.lengths if not length.finished)
        return LimitCost(more, more / tok_per_s if tok_per_s else None)


def measure_answer_lengths(answers: Iterable[Answer], without_thinking: bool = False) -> list[AnswerLength]:
    """Return the token counts of all answers without an error.

    without_thinking: thinking has a budget of its own, so that the limit counts the tokens after
    it.
    """
    return [
        AnswerLength(
            answer.answer_tokens
            if without_thinking and answer.answer_tokens is not None
            else answer.num_tokens,
            answer.finish_reason is FinishReason.stop,
        )
        for answer in answers
        if answer.finish_reason is FinishReason.stop or answer.finish_reason.is_cut_off
    ]
