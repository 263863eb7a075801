"""Percentiles of what tokens have, with intervals over texts: the tokens of one text are not
independent.

Percentiles are those of llama-perplexity: between two tokens, linear. An interval ends where the
tokens beyond it could no longer be, or just be, as many as the percentile says: the share that they
are of each text is a number between 0 and 1, and its mean over texts has Gaffke's bound
(bounded_means.py), which adds one text that lies wholly beyond. So the interval also holds where a
rare kind of text has the whole tail (tails_null.py), and there is none where a kind that is in none
of the texts could have it: of so few texts nobody can know the percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runner_compare.statistics.bounded_means import chance_of
from runner_compare.statistics.stats import ALPHA

FINE = 200  # an end is found to this part of the rarer side of the percentile, and is then the wider one


class TokenValues:
    """The numbers of all tokens in ascending order, each with the number of its text."""

    def __init__(self, by_text: Sequence[Sequence[float]]) -> None:
        import numpy as np

        values = np.concatenate([np.asarray(some, dtype=np.float64) for some in by_text])
        order = np.argsort(values, kind="stable")
        self.ordered = values[order]
        self.texts = np.repeat(np.arange(len(by_text)), [len(some) for some in by_text])[order]
        self.sizes: Any = np.array([len(some) for some in by_text], dtype=np.float64)

    def percentile(self, share: float) -> float:
        """Return the value that this share of the tokens does not exceed."""
        return _at(self.ordered, share * (len(self.ordered) - 1))

    def interval(self, share: float) -> tuple[float, float] | None:
        """Return the 95 % interval of such a percentile; None if texts that are not there could all
        be beyond it."""
        if self.ordered[0] == self.ordered[-1]:
            return float(self.ordered[0]), float(self.ordered[0])
        if not (self._is_less(0, share) and self._is_less(0, 1 - share, from_top=True)):
            return None
        value, above = self.percentile(share), self._too_few(1 - share, from_top=True)
        low, high = self.ordered[self._too_few(share)], self.ordered[len(self.ordered) - above - 1]
        return min(value, float(low)), max(value, float(high))

    def _too_few(self, share: float, from_top: bool = False) -> int:
        """Return how many of the lowest (or highest) tokens are still too few to be this share of
        all."""
        n = len(self.ordered)
        few, enough = 0, math.ceil(share * n)
        while enough - few > max(1.0, min(share, 1 - share) * n / FINE):
            middle = (few + enough) // 2
            if self._is_less(middle, share, from_top):
                few = middle
            else:
                enough = middle
        return few

    def _is_less(self, tokens: int, share: float, from_top: bool = False) -> bool:
        """Whether so many of the lowest (or highest) tokens are less than a share in all texts that
        could be drawn."""
        import numpy as np

        texts = self.texts[len(self.texts) - tokens :] if from_top else self.texts[:tokens]
        tops: Any = np.bincount(texts, minlength=len(self.sizes)).astype(np.float64)
        return chance_of(tops, self.sizes, share, 1) < ALPHA / 2


def texts_needed(share: float) -> int:
    """Return of how many equally long texts, at least, such a percentile has an interval."""
    return math.ceil(math.log(ALPHA / 2) / math.log(max(share, 1 - share)))


def _at(ordered: Any, position: float) -> float:
    """Return the value at a place of an ordered array: between two places, linear."""
    position = min(max(position, 0.0), len(ordered) - 1.0)
    first, part = int(position), position - int(position)
    after = ordered[min(first + 1, len(ordered) - 1)]
    return float((1 - part) * ordered[first] + part * after) if part else float(ordered[first])
