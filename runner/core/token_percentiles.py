"""Percentiles of what tokens have, with intervals over texts: the tokens of one text are not independent.

Percentiles are those of llama-perplexity: between two tokens, linear. An interval turns that of a share round
(Woodruff, Journal of the American Statistical Association 47, 1952): the share of tokens beyond the percentile varies
over texts, so the tokens are worth fewer independent ones, and the exact interval of the share for so many (Korn and
Graubard, Survey Methodology 24, 1998) says between which tokens the percentile lies. A bootstrap over texts would not
do: no sample of the same tokens has one beyond their largest (bench/tails_null.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.core.ratios import caution, ratio_error
from runner.core.stats import ALPHA, student_quantile

MIN_BEYOND = 10  # texts with a token on the rarer side of a percentile: of fewer, no interval holds (tails_null.py)


class TokenValues:
    """The numbers of all tokens in ascending order, each with the number of its text."""

    def __init__(self, by_text: Sequence[Sequence[float]]) -> None:
        import numpy as np

        values = np.concatenate([np.asarray(some, dtype=np.float64) for some in by_text])
        order = np.argsort(values, kind="stable")
        self.ordered = values[order]
        self.texts = np.repeat(np.arange(len(by_text)), [len(some) for some in by_text])[order]
        self.sizes = np.array([len(some) for some in by_text], dtype=np.float64)

    def percentile(self, share: float) -> float:
        """Return the value that this share of the tokens does not exceed."""
        return _at(self.ordered, share * (len(self.ordered) - 1))

    def interval(self, share: float) -> tuple[float, float] | None:
        """Return the 95 % interval of such a percentile; None if too few texts are beyond it."""
        import numpy as np
        from scipy.special import betaincinv

        n = len(self.ordered)
        if self.ordered[0] == self.ordered[-1]:
            return float(self.ordered[0]), float(self.ordered[0])
        cut = round(share * n)  # tokens below the percentile
        rarer = self.texts[cut:] if share > 0.5 else self.texts[:cut]
        tops = np.bincount(rarer, minlength=len(self.sizes)).astype(np.float64)
        beyond = int((tops > 0).sum())
        if beyond < MIN_BEYOND:
            return None
        rare, independent = len(rarer) / n, len(rarer) / n * (1 - len(rarer) / n) / n
        worth = n * independent / max(ratio_error(tops.tolist(), self.sizes.tolist()) ** 2, independent)
        # few texts say little of how unlike texts are: as many degrees of freedom as there are such texts
        alpha = ALPHA / caution(len(self.sizes))
        worth *= (student_quantile(alpha, n - 1) / student_quantile(alpha, beyond - 1)) ** 2
        least = float(betaincinv(rare * worth, (1 - rare) * worth + 1, alpha / 2))
        most = float(betaincinv(rare * worth + 1, (1 - rare) * worth, 1 - alpha / 2))
        if least * n < 1 or most * n > n - 1:
            return None
        low, high = (1 - most, 1 - least) if share > 0.5 else (least, most)
        return _at(self.ordered, low * n - 1), _at(self.ordered, high * n)


def _at(ordered: Any, place: float) -> float:
    """Return the value at a place of an ordered array: between two places, linear."""
    place = min(max(place, 0.0), len(ordered) - 1.0)
    first, part = int(place), place - int(place)
    after = ordered[min(first + 1, len(ordered) - 1)]
    return float((1 - part) * ordered[first] + part * after) if part else float(ordered[first])
