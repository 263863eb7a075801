"""Test of the mean of few bounded values by Gaffke's bound, which is valid for skewed values.

Ten clusters that each gain a little show nothing about an eleventh that loses everything.
So the test adds one cluster with the worst possible value, gives all of them random weights
(those of the Bayesian bootstrap: independent exponentials), and computes how often the
weighted mean is on the other side. That is Gaffke's bound (Three test statistics for a
nonparametric one-sided hypothesis on the mean of a nonnegative variable, Mathematical
Methods of Statistics 14, 2005). For verdicts it is Clopper and Pearson's exact test. The
probability is an integral, so nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STEP, LAST = 0.08, 7.0  # of the integral: relative errors are below 1e-8 from six numbers on
FACTORS = 16  # of a product that is logarithmized once: logarithms take longest, and so many factors do not overflow
HALVINGS = (
    20  # of the range in which the integral's path crosses the real axis: near the saddle point will do
)


def compute_mean_p_value(
    sums: Sequence[float], sizes: Sequence[float], null_mean: float, worst_value: int
) -> float:
    """Return the one-sided p-value against a null mean, from the sum and size of each cluster.

    The unseen cluster has the worst value: -1 tests a mean of at most `null_mean`, 1 a mean of
    at least that.
    """
    import numpy as np  # where few clusters are compared: a score needs none of it

    gaps = np.asarray(sums) - null_mean * np.asarray(sizes)
    # the size of an average number's cluster, which the unseen one has
    typical = np.dot(sizes, sizes) / np.sum(sizes)
    values, counts = np.unique(gaps, return_counts=True)
    return compute_nonpositive_sum_probability(
        -worst_value * np.append(values, typical * (worst_value - null_mean)), np.append(counts, 1)
    )


def compute_nonpositive_sum_probability(values: Any, counts: Any) -> float:
    """Return the probability that a sum of randomly weighted values is at most 0.

    The weights are exponentially distributed, and `counts` says how often each value occurs. The
    moment-generating function of the sum has a closed form. Divided by its argument, it is
    integrated along the line through the saddle point, where nothing oscillates and small
    probabilities stay exact.
    """
    import numpy as np

    values, counts = values[values != 0], counts[values != 0].astype(float)
    if not (values < 0).any():
        return 0.0 if len(values) else 1.0
    if not (values > 0).any():
        return 1.0
    is_turned = bool(counts @ values < 0)  # then the chance of the other side is the smaller one
    scaled = (-values if is_turned else values) / np.abs(values).max()
    low, high = 1 / float(scaled.min()), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_left = counts @ (scaled / (1 - middle * scaled)) < 1 / middle
        low, high = (middle, high) if is_left else (low, middle)
    saddle = (low + high) / 2
    width = 1 / np.sqrt(counts @ (scaled / (1 - saddle * scaled)) ** 2 + 1 / saddle**2)
    at = np.arange(0.0, LAST, STEP)
    line = saddle + 1j * width * np.sinh(at)
    parts = np.real(np.exp(-_compute_negative_log_mgf(scaled, counts, line)) / -line) * width * np.cosh(at)
    chance = float((parts.sum() - parts[0] / 2) * STEP / np.pi)
    return min(1.0, max(0.0, 1 - chance if is_turned else chance))


def _compute_negative_log_mgf(scaled: Any, counts: Any, points: Any) -> Any:
    """Return log(prod((1 - value * point) ** count)) for each point.

    The imaginary part is exact only up to multiples of 2π.
    """
    import numpy as np

    if len(scaled) < FACTORS:
        return counts @ np.log(1 - np.outer(scaled, points))
    every = np.repeat(scaled, counts.astype(int))
    rows = np.append(every, np.zeros(-len(every) % FACTORS)).reshape(FACTORS, -1)
    product = 1 - np.outer(rows[0], points)
    for row in rows[1:]:
        product *= 1 - np.outer(row, points)
    return np.log(product).sum(0)
