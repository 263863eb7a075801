"""Percentiles of token values, with intervals over texts, because tokens of one text are dependent.

Percentiles are those of llama-perplexity, linearly interpolated. An interval ends where the
tokens beyond it could no longer be, or just be, as many as the percentile says: their
fraction of each text is a number between 0 and 1, and its mean over texts has Gaffke's
bound (bounded_means.py), which adds one text that lies wholly beyond. So the interval also
holds where a rare kind of text has the whole tail (tails_null.py). There is none where an
unobserved kind could have it: so few texts cannot determine the percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runner_compare.statistics.bounded_means import compute_mean_p_value
from runner_compare.statistics.stats import ALPHA

FINE = 200  # an end is found to this part of the rarer side of the percentile, and is then the wider one


class TokenValues:
    """Values of all tokens in ascending order, each with the index of its text."""

    def __init__(self, by_text: Sequence[Sequence[float]]) -> None:
        import numpy as np

        values = np.concatenate([np.asarray(some, dtype=np.float64) for some in by_text])
        order = np.argsort(values, kind="stable")
        self.ordered = values[order]
        self.texts = np.repeat(np.arange(len(by_text)), [len(some) for some in by_text])[order]
        self.sizes: Any = np.array([len(some) for some in by_text], dtype=np.float64)

    def percentile(self, fraction: float) -> float:
        """Return the percentile: the value that a fraction of the tokens does not exceed."""
        return _interpolate_percentile(self.ordered, fraction * (len(self.ordered) - 1))

    def compute_interval(self, fraction: float) -> tuple[float, float] | None:
        """Return the 95 % interval of a percentile; None with too few texts.

        Returns None if unobserved texts could lie entirely beyond it.
        """
        if self.ordered[0] == self.ordered[-1]:
            return float(self.ordered[0]), float(self.ordered[0])
        if not (
            self._is_count_significantly_below_fraction(0, fraction)
            and self._is_count_significantly_below_fraction(0, 1 - fraction, from_top=True)
        ):
            return None
        value, above = (
            self.percentile(fraction),
            self._find_max_tokens_below_fraction(1 - fraction, from_top=True),
        )
        low, high = (
            self.ordered[self._find_max_tokens_below_fraction(fraction)],
            self.ordered[len(self.ordered) - above - 1],
        )
        return min(value, float(low)), max(value, float(high))

    def _find_max_tokens_below_fraction(self, fraction: float, from_top: bool = False) -> int:
        """Return the largest number of tokens that is significantly smaller than a fraction of all tokens.

        Counts the lowest tokens, or the highest tokens with `from_top`.
        """
        n = len(self.ordered)
        few, enough = 0, math.ceil(fraction * n)
        while enough - few > max(1.0, min(fraction, 1 - fraction) * n / FINE):
            middle = (few + enough) // 2
            if self._is_count_significantly_below_fraction(middle, fraction, from_top):
                few = middle
            else:
                enough = middle
        return few

    def _is_count_significantly_below_fraction(
        self, num_tokens: int, fraction: float, from_top: bool = False
    ) -> bool:
        """Whether a number of tokens is significantly smaller than a fraction of all tokens.

        The counted tokens are the lowest, or the highest with `from_top`.
        """
        import numpy as np

        texts = self.texts[len(self.texts) - num_tokens :] if from_top else self.texts[:num_tokens]
        tops: Any = np.bincount(texts, minlength=len(self.sizes)).astype(np.float64)
        return compute_mean_p_value(tops, self.sizes, fraction, 1) < ALPHA / 2


def min_texts_for_interval(fraction: float) -> int:
    """Return the minimum number of equally long texts for which a percentile has an interval."""
    return math.ceil(math.log(ALPHA / 2) / math.log(max(fraction, 1 - fraction)))


def _interpolate_percentile(ordered: Any, position: float) -> float:
    position = min(max(position, 0.0), len(ordered) - 1.0)
    first, part = int(position), position - int(position)
    after = ordered[min(first + 1, len(ordered) - 1)]
    return float((1 - part) * ordered[first] + part * after) if part else float(ordered[first])
