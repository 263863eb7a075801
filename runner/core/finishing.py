"""Estimates the token limit that truncated answers would have needed, with a Kaplan-Meier curve.

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
from runner_compare.statistics import compute_clopper_pearson_interval

WANTED = 0.95  # the share of answers that are to finish


class AnswerLength(NamedTuple):
    """Number of tokens in an answer, and whether the answer is complete or truncated."""

    tokens: int
    finished: bool


class LimitCost(NamedTuple):
    """Upper bounds of the additional tokens and seconds that a job needs if its token limit is raised."""

    tokens: int
    seconds: float | None  # None: no speed is known


@dataclass(frozen=True)
class FinishingCurve:
    """Estimated fraction of answers that finish within a number of tokens."""

    lengths: Sequence[AnswerLength]
    reached: float  # the largest share that the curve reaches
    tokens: int | None = None  # within so many, the share that is wanted finishes; None: it cannot be told
    low: int | None = None  # of the 95 % interval of these tokens; None: no length is enough to be its end
    high: int | None = None

    @classmethod
    def estimate_from_answer_lengths(
        cls, answer_lengths: Iterable[AnswerLength], finished_fraction: float = WANTED
    ) -> FinishingCurve:
        """Estimate the curve and its exact confidence interval from answer lengths.

        The interval uses Peto's effective sample size.
        """
        ordered = sorted(answer_lengths)
        every, open_share, worth = [length.tokens for length in ordered], 1.0, len(ordered)
        found: dict[str, int] = {}
        for tokens, ended in Counter(length.tokens for length in ordered if length.finished).items():
            at_risk = len(every) - bisect_left(every, tokens)
            open_share *= 1 - ended / at_risk
            if at_risk > ended:
                worth = round((at_risk - ended) / open_share)
            ends = compute_clopper_pearson_interval(round((1 - open_share) * worth), worth)
            for name, share in zip(("high", "low", "tokens"), (*ends, 1 - open_share), strict=True):
                if share >= finished_fraction - 1e-12:
                    found.setdefault(name, tokens)
        return cls(ordered, 1 - open_share, **found)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics: the fraction of finished answers and, if known, the token limit within which 95 % of
        answers finish.
        """
        known = {} if self.tokens is None else {"max_new_tokens_for_95_percent": self.tokens}
        return {"finished_share": self.reached} | known

    def make_token_limit_advice_note(self, token_limit: int, tok_per_s: float | None) -> Note:
        """Return a note that names the token limit within which 95 % of answers finish, and the cost of
        this limit.
        """
        if self.tokens is None:
            return note(
                "enough_tokens_unknown",
                wanted=WANTED,
                reached=self.reached,
                limit=token_limit,
                longer=2 * token_limit,
                price=self._bound_cost_at_token_limit(2 * token_limit, tok_per_s),
            )
        price = (
            None if self.tokens <= token_limit else self._bound_cost_at_token_limit(self.tokens, tok_per_s)
        )
        found = {"tokens": self.tokens, "low": self.low, "high": self.high, "price": price}
        return note("enough_tokens", wanted=WANTED, **found)

    def _bound_cost_at_token_limit(self, token_limit: int, tok_per_s: float | None) -> LimitCost:
        """Return an upper bound of the cost if the token limit is raised to `token_limit`."""
        more = sum(max(0, token_limit - length.tokens) for length in self.lengths if not length.finished)
        return LimitCost(more, more / tok_per_s if tok_per_s else None)


def measure_answer_lengths(answers: Iterable[Answer], without_thinking: bool = False) -> list[AnswerLength]:
    """Return the token count of each answer that did not end in an error.

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
