"""Empirical likelihood test of the mean of bounded values.

Ten clusters that each gain a little say nothing of an eleventh that loses everything. So
the test takes the null distribution that explains the numbers best: it gives the numbers
unequal weights, and weight to one more number that is as bad as can be. That is empirical
likelihood with an unseen value, or the best bet against a mean in hindsight (Honda and
Takemura, Machine Learning 85, 2011). S is the log of how many times less likely the numbers
are under that null. Under it, numbers that are at least so unlikely have the probability
E[exp(-S*); S* >= S], where S* is S of numbers that are drawn as the observed ones
(nonparametric tilting: Efron, Canadian Journal of Statistics 9, 1981). With a normal S* of
variance v it is exp(v/2 - S) Φ(-√v). Twice that is the two-sided p-value. If all numbers
are the same, it is exp(-S), the probability that n numbers are none of the rare kind. If
they scatter around, it is that of a normal test. Counts move in steps: where the sums of
clusters do, half of a step is taken off the distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

HALVINGS = 34  # of the shares that can be bet
ROUNDING = 1e-9  # closer sums count as equal
TINY = 1e-12  # what is left of the range at a mean of 1 or -1


def compute_empirical_likelihood_p_value(
    sums: Sequence[float], sizes: Sequence[float], null_mean: float
) -> float:
    """Return the two-sided p-value against a null mean, given the sum and size of each cluster.

    The values that the sums add up are between -1 and 1.
    """
    import numpy as np  # where means are compared: a score needs none of it

    rows = np.array([sums], float), np.array([sizes], float)
    return float(
        compute_empirical_likelihood_p_values(*rows, null_mean, find_smallest_nonzero_gaps(rows[0]))[0]
    )


def find_smallest_nonzero_gaps(sums: Any) -> Any:
    import numpy as np

    apart = np.diff(np.sort(sums, axis=1), axis=1, prepend=-math.inf)
    least = np.where(apart > ROUNDING, apart, math.inf).min(axis=1)
    return np.where(np.isfinite(least), least, 0.0)


def compute_empirical_likelihood_p_values(
    sums: Any, sizes: Any, null_mean: Any, sum_gaps: Any, num_lost_gaps: int | None = None
) -> Any:
    """Return the two-sided p-value of each matrix row against the null mean.

    `sum_gaps` is the smallest difference between the sums of each row. The unseen cluster loses
    `num_lost_gaps` of these differences, or everything (None).
    """
    import numpy as np
    from scipy.special import log_ndtr

    count, total = sums.shape[1], sizes.sum(axis=1)
    # the size of an average number's cluster, which the unseen one has
    typical = (sizes * sizes).sum(axis=1) / total
    gaps = sums - np.reshape(null_mean, (-1, 1)) * sizes
    distance = gaps.sum(axis=1)
    sign = np.where(distance < 0, -1.0, 1.0)
    nearer = sign * np.minimum(sum_gaps / 2, np.abs(distance)) / total
    # below 0 on average, as the null is above
    against = -sign[:, None] * (gaps - nearer[:, None] * sizes)
    unseen = typical * (1 + sign * null_mean)
    if num_lost_gaps is not None:
        little = num_lost_gaps * np.where(sum_gaps > 0, sum_gaps, 1.0) + typical * sign * null_mean
        unseen = np.minimum(unseen, little)
    widest = np.maximum(TINY, np.maximum(unseen, against.max(axis=1)))[:, None]
    scaled = against / widest
    low, high = np.zeros_like(widest), np.full_like(widest, 1 - 1e-12)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        is_more = (scaled / (share * scaled - 1)).sum(axis=1, keepdims=True) > 0
        low, high = np.where(is_more, share, low), np.where(is_more, high, share)
    logs = np.log1p(-low * scaled)
    against_null = np.maximum(0.0, logs.sum(axis=1))
    variance = logs.var(axis=1) * count * count / max(1, count - 1)
    return np.minimum(1.0, 2 * np.exp(variance / 2 - against_null + log_ndtr(-np.sqrt(variance))))
