"""Within how many tokens answers finish, where a limit has cut off some: Kaplan and Meier's curve.

An answer that was cut off would have taken more tokens than it has: how many more is not known, but
that it took so many counts. The finished answers alone are the short ones, so a quantile of theirs
is too small. Beyond the longest finished answer the curve says nothing: where all answers have one
limit, it ends at the share that finished.
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


class Length(NamedTuple):
    """The tokens of an answer, and whether it ended by itself; otherwise it would have been
    longer."""

    tokens: int
    finished: bool


class Price(NamedTuple):
    """What a larger limit costs at most."""

    tokens: int
    seconds: float | None  # None: no speed is known


@dataclass(frozen=True)
class Finishing:
    """Within how many tokens a share of answers finishes."""

    lengths: Sequence[Length]
    reached: float  # the largest share that the curve reaches
    tokens: int | None = None  # within so many, the share that is wanted finishes; None: it cannot be told
    low: int | None = None  # of the 95 % interval of these tokens; None: no length is enough to be its end
    high: int | None = None

    @classmethod
    def of(cls, lengths: Iterable[Length], wanted: float = WANTED) -> Finishing:
        """Compute the curve; its interval is exact for as many answers as those that go on are
        worth (Peto)."""
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
                if share >= wanted - 1e-12:
                    found.setdefault(name, tokens)
        return cls(ordered, 1 - open_share, **found)

    @property
    def metrics(self) -> dict[str, float]:
        """The share that finished, and the limit that lets 95 % finish if that can be told."""
        known = {} if self.tokens is None else {"max_new_tokens_for_95_percent": self.tokens}
        return {"finished_share": self.reached} | known

    def advice(self, limit: int, tok_per_s: float | None) -> Note:
        """Return the limit of tokens that lets 95 % of the answers finish, and what it costs at a
        speed of decoding."""
        if self.tokens is None:
            return note(
                "enough_tokens_unknown",
                wanted=WANTED,
                reached=self.reached,
                limit=limit,
                longer=2 * limit,
                price=self._price(2 * limit, tok_per_s),
            )
        price = None if self.tokens <= limit else self._price(self.tokens, tok_per_s)
        found = {"tokens": self.tokens, "low": self.low, "high": self.high, "price": price}
        return note("enough_tokens", wanted=WANTED, **found)

    def _price(self, limit: int, tok_per_s: float | None) -> Price:
        """Return what another limit costs at most: as if all that was cut off went on to it."""
        more = sum(max(0, limit - length.tokens) for length in self.lengths if not length.finished)
        return Price(more, more / tok_per_s if tok_per_s else None)


def lengths_of(answers: Iterable[Answer], of_answer_only: bool = False) -> list[Length]:
    """Return the lengths of answers that did not end in an error.

    of_answer_only: thinking has a budget of its own, so that the limit counts what follows it.
    """
    return [
        Length(
            answer.answer_tokens if of_answer_only and answer.answer_tokens is not None else answer.tokens,
            answer.finish_reason is FinishReason.stop,
        )
        for answer in answers
        if answer.finish_reason is FinishReason.stop or answer.finish_reason.is_cut_off
    ]
