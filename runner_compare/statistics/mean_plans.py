"""Simulates statistical power and sample sizes of comparisons of cluster means.

The simulation has a fixed seed. Clusters are drawn from the observed ones, each with a
random sign, so that they differ as often as the observed ones and neither side is better.
Then the loss is added. It is spread evenly, so that each answer may be lost, or it takes
whole clusters, which is harder to detect: no cluster tells in advance which of the two
applies.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from runner_compare.statistics.margins import find_smallest_sample_size
from runner_compare.statistics.paired_means import CAUTION, LOST_ANSWERS, compute_mean_p_values
from runner_compare.statistics.ratios import EXACT_FLIPS, ROUNDING
from runner_compare.statistics.stats import POWER, compute_student_quantile

# drawn comparisons, and clusters in all of them: fewer comparisons of many clusters
DRAWS, MOST_NUMBERS = 500, 120_000
LEAST_DRAWS = 200
# of those that are simulated: clusters that are drawn from a few differ a little less than others
AIM = POWER + 0.02
ROUNDS = 7  # of the search for a difference: to one hundredth of it
HALVINGS = 40
MANY_CLUSTERS = 2_000  # of which the normal approximation is as good, and faster

Sums = tuple[float, ...]


@lru_cache(maxsize=256)
def find_detectable_mean_loss(
    sums: Sums,
    sizes: Sums,
    answers_per_question: int,
    loses_whole_clusters: bool,
    level: float,
    is_strict: bool = False,
) -> float | None:
    """Return the smallest loss that is detected with 80 % power; None if no loss is detected.

    `loses_whole_clusters`: the loss takes whole clusters.
    """
    if (
        simulate_mean_loss_power(
            sums, sizes, answers_per_question, loses_whole_clusters, level, 1.0, is_strict
        )
        < AIM
    ):
        return None
    guess = _approximate_detectable_mean_loss(sums, sizes, answers_per_question, loses_whole_clusters, level)
    if len(sums) > MANY_CLUSTERS:
        return guess
    low, high = guess / 2, guess
    while (
        high < 1
        and simulate_mean_loss_power(
            sums, sizes, answers_per_question, loses_whole_clusters, level, high, is_strict
        )
        < AIM
    ):
        low, high = high, min(1.0, 1.5 * high)
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        is_found = (
            simulate_mean_loss_power(
                sums, sizes, answers_per_question, loses_whole_clusters, level, middle, is_strict
            )
            >= AIM
        )
        low, high = (low, middle) if is_found else (middle, high)
    return high


def simulate_mean_loss_power(
    sums: Sums,
    sizes: Sums,
    answers_per_question: int,
    loses_whole_clusters: bool,
    level: float,
    loss: float,
    is_strict: bool = False,
) -> float:
    import numpy as np

    generator, count = np.random.default_rng(0), len(sums)
    draws = max(LEAST_DRAWS, min(DRAWS, MOST_NUMBERS // count))
    chosen = generator.integers(count, size=(draws, count))
    drawn_sizes = np.array(sizes)[chosen]
    signs = generator.choice([-1.0, 1.0], size=chosen.shape)
    drawn = np.array(sums)[chosen] * signs
    # What is lost already, or what the other side had not solved, cannot be lost.
    room = np.minimum(drawn_sizes, drawn_sizes + drawn)
    share = min(1.0, loss * float(np.sum(sizes)) / (float(room.sum()) / draws))
    if loses_whole_clusters:
        drawn -= room * (generator.random(chosen.shape) < share)
    else:
        drawn -= (
            generator.binomial((room * answers_per_question).round().astype(int), share)
            / answers_per_question
        )
    is_found = (drawn.sum(axis=1) < 0) & (compute_mean_p_values(drawn, drawn_sizes, 0.0, is_strict) < level)
    rows = np.flatnonzero(is_found)
    is_found[rows] = compute_sign_flip_p_values(drawn[rows]) < level
    return float(is_found.mean())


def compute_sign_flip_p_values(sums: Any) -> Any:
    """Return the sign-flip p-value of each matrix row, which contains one sum per cluster.

    It is 0 where so many clusters differ that Student's test is as strict.
    """
    import numpy as np

    ps = np.zeros(len(sums))
    differ = (sums != 0).sum(axis=1)
    for number in np.unique(differ[differ <= EXACT_FLIPS]):
        rows = np.flatnonzero(differ == number)
        values = np.sort(np.abs(sums[rows]), axis=1)[:, sums.shape[1] - number :] * 1.0
        totals, lines, of_row = (
            sums[rows].sum(axis=1),
            *np.unique(
                np.column_stack([values, np.abs(sums[rows].sum(axis=1))]), axis=0, return_inverse=True
            ),
        )
        assert len(totals) == len(of_row)
        # the other half mirrors it
        bits = np.arange(2 ** max(0, number - 1))[:, None] >> np.arange(number) & 1
        reached = np.abs((1.0 - 2 * bits) @ lines[:, :-1].T) >= lines[:, -1] - ROUNDING * lines[:, :-1].sum(
            axis=1
        )
        ps[rows] = reached.mean(axis=0)[of_row]
    return ps


def _approximate_detectable_mean_loss(
    sums: Sums, sizes: Sums, answers_per_question: int, loses_whole_clusters: bool, level: float
) -> float:
    total, count = math.fsum(sizes), len(sums)
    squares = math.fsum(size * size for size in sizes)
    noise = math.fsum(unit_sum * unit_sum for unit_sum in sums)
    errors = compute_student_quantile(level, max(1, int(total**2 / squares) - 1)) + NormalDist().inv_cdf(
        POWER
    )

    def is_detectable(loss: float) -> bool:
        of_loss = loss * (1 - loss) * (squares if loses_whole_clusters else total / answers_per_question)
        return loss * total >= errors * math.sqrt((noise + of_loss) * count / max(1, count - 1))

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_detectable(middle) else (middle, high)
    return high


def plan_questions_for_margin(
    sums: Sums, sizes: Sums, margin: float, level: float, power: float = POWER, is_strict: bool = False
) -> int | None:
    """Return the number of questions needed to show non-inferiority if both runs are equally good.

    Clusters differ like the observed ones, and a little more often: half of one more cluster
    differs (Jeffreys). The distribution of the test's statistic is normal. None if ten million
    are not enough.
    """
    import numpy as np
    from scipy.special import log_ndtr, ndtr

    count, total = len(sums), math.fsum(sizes)
    typical = math.fsum(size * size for size in sizes) / total
    differing = [unit_sum for unit_sum in sums if unit_sum]
    unseen = (
        math.sqrt(math.fsum(unit_sum * unit_sum for unit_sum in differing) / len(differing))
        if differing
        else typical
    )
    of_size = total / count
    values = np.array([*sums, unseen])
    weights = np.array([1.0] * count + [0.5]) / (count + 0.5)
    weights[-1], weights[:-1] = (
        0.5 / (count + 1),
        weights[:-1] * (1 - 0.5 / (count + 1)) / weights[:-1].sum(),
    )
    sizes_too = np.array([*sizes, of_size])
    gaps = np.concatenate([values, -values]) + margin * np.concatenate([sizes_too, sizes_too])
    weights = np.concatenate([weights, weights]) / 2

    def compute_log_likelihood_moments(unseen_value: float) -> tuple[float, float]:
        """Return the mean and variance of a cluster's log-likelihood ratio.

        One unseen cluster has the value `unseen_value`.
        """
        scaled = -gaps / max(unseen_value, float(-gaps.min()))
        low, high = 0.0, 1 - 1e-12
        for _ in range(HALVINGS):
            share = (low + high) / 2
            is_more = weights @ (scaled / (share * scaled - 1)) > 0
            low, high = (share, high) if is_more else (low, share)
        logs = np.log1p(-low * scaled)
        mean = float(weights @ logs)
        return mean, float(weights @ (logs - mean) ** 2)

    least = min((abs(unit_sum) for unit_sum in differing), default=1.0)
    ways = [
        (1.0, *compute_log_likelihood_moments(typical * (1 + margin))),
        (CAUTION, *compute_log_likelihood_moments(LOST_ANSWERS * least - margin * typical)),
    ]
    spread = math.sqrt(float(weights @ (gaps - margin * np.concatenate([sizes_too, sizes_too])) ** 2))
    # of a cluster, in clusters of equal size
    worth = total**2 / math.fsum(size * size for size in sizes) / count

    def compute_power(questions: int) -> float:
        clusters = max(2.0, questions / of_size)

        def compute_power_for_caution_factor(caution_factor: float, mean: float, variance: float) -> float:
            bound = (
                math.log(2 * caution_factor / level)
                + clusters * variance / 2
                + float(log_ndtr(-math.sqrt(clusters * variance)))
            )
            surplus = clusters * mean - bound
            by_likelihood = ndtr(surplus / math.sqrt(clusters * variance)) if variance else float(surplus > 0)
            t = compute_student_quantile(level / caution_factor, max(1, int(clusters * worth) - 1))
            shift = margin * of_size * math.sqrt(clusters)
            return float(min(by_likelihood, ndtr(shift / spread - t) if spread else 1.0))

        return max(compute_power_for_caution_factor(*way) for way in (ways[:1] if is_strict else ways))

    return find_smallest_sample_size(compute_power, power)
