"""Test and confidence interval of the mean difference between two runs on the same questions.

A question's value is a verdict or an accuracy, so differences lie in -1..1. Questions may
belong to clusters (perturbed versions, questions about one text): those of one cluster are
not independent, so the cluster is the unit of each statistic, and without clusters the
question. mean_plans.py computes detectable differences.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from runner_compare.statistics import ratios
from runner_compare.statistics.empirical_likelihood import (
    compute_empirical_likelihood_p_values,
    find_smallest_nonzero_gaps,
)
from runner_compare.statistics.ratios import remove_skewness
from runner_compare.statistics.stats import ALPHA

# into which a range is divided, again and again, to find an end of the interval in it
ROUNDS, PARTS = 4, 12
ROUNDING = 1e-12
BEYOND = 1e6  # standard errors, of what has none
MIN_CLUSTERS = 6  # with five, no test can reach a p below 0.05
FEW_CLUSTERS = 60  # of fewer, more clusters help more than more questions in each
LOST_ANSWERS = 2  # of an unseen cluster that loses a little
# Factor on p where a kind of cluster that loses everything may be unseen: few clusters show too little
# skewness. With 2.5, losses of just the margin passed too often (bench/compare/cluster_skewed.py).
CAUTION = 3.5


@dataclass(frozen=True)
class MeanDifference:
    """Mean difference over n clustered questions, with its test and interval.

    A true difference is tested by Student's and Hall's t, for the equivalent number of equal
    clusters, and by a likelihood that allows for a kind of cluster that was not observed
    (empirical_likelihood.py): the largest p-value decides. If that kind may be lost entirely, p counts
    unchanged; few clusters then show next to nothing. If it loses LOST_ANSWERS, p counts
    CAUTION times, and the skewness is corrected for the number of clusters. The smaller of the
    two p-values is taken: then a kind rarer than about four in n may deceive the test, as it
    may those of texts and numbers. Against no difference, flips of the clusters' signs decide,
    too: they are exact if neither side is better. The interval has the differences that are not
    rejected (bench/compare/cluster_null.py).
    """

    n: int
    difference: float  # the mean
    sums: tuple[float, ...]  # of the differences in each cluster
    sizes: tuple[float, ...]  # questions in each cluster
    p: float
    clusters_worth: float  # in clusters of equal size
    is_strict: bool = False  # whether a kind of cluster that is all lost always has to be excluded

    @classmethod
    def from_differences(
        cls, differences: Sequence[float], clusters: Sequence[Hashable] | None = None, is_strict: bool = False
    ) -> MeanDifference:
        """Compute the mean difference from each question's difference and cluster.

        Without clusters, each question counts as a cluster.
        """
        sums, sizes = map(tuple, ratios.sum_by_cluster(differences, clusters))
        n, by_flips = len(differences), ratios.compute_sign_flip_p_value(sums)
        p = (
            by_flips
            if by_flips >= 1
            else max(by_flips, _compute_mean_difference_p_value(sums, sizes, 0.0, is_strict))
        )
        return cls(
            n, math.fsum(differences) / n, sums, sizes, p, ratios.effective_num_clusters(sizes), is_strict
        )

    @property
    def has_few_clusters(self) -> bool:
        return self.clusters_worth < FEW_CLUSTERS

    def compute_p_value_against(self, null_difference: float) -> float:
        """Return the two-sided p-value against a null difference, consistent with the interval."""
        return (
            self.p
            if null_difference == 0
            else _compute_mean_difference_p_value(self.sums, self.sizes, null_difference, self.is_strict)
        )

    def compute_interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        low, high = (self._find_interval_end(end, alpha) for end in (-1.0, 1.0))
        # The test against no difference also flips signs: it may not reject what the interval
        # would.
        return (min(low, 0.0), max(high, 0.0)) if self.p >= alpha else (low, high)

    def _find_interval_end(self, search_limit: float, alpha: float) -> float:
        import numpy as np

        inside = self.difference
        for _ in range(ROUNDS):
            tried = np.linspace(inside, search_limit, PARTS + 1)
            sums, sizes = (np.tile(values, (PARTS + 1, 1)) for values in (self.sums, self.sizes))
            is_outside = np.append(
                compute_mean_p_values(sums, sizes, tried, self.is_strict)[1:] < alpha, True
            )
            first = int(is_outside.argmax()) + 1  # the first one outside
            if first > PARTS:
                return search_limit
            inside, search_limit = float(tried[first - 1]), float(tried[first])
        return inside


def _compute_mean_difference_p_value(
    sums: Sequence[float], sizes: Sequence[float], null_difference: float, is_strict: bool
) -> float:
    import numpy as np  # where means are compared: a score needs none of it

    rows = np.array([sums], float), np.array([sizes], float)
    return float(compute_mean_p_values(*rows, null_difference, is_strict)[0])


def compute_mean_p_values(
    sums: Any, sizes: Any, null_difference: Any, is_strict: bool = False, sum_gaps: Any = None
) -> Any:
    """Return the two-sided p-value against a null difference for each matrix row of cluster sums.

    Sign flips are not included. All rows are tested against one difference, or each against its
    own. `sum_gaps` is what one answer changes in a sum; the default is observed.
    """
    import numpy as np
    from scipy.special import stdtr

    step = find_smallest_nonzero_gaps(sums) if sum_gaps is None else sum_gaps
    count, total = sums.shape[1], sizes.sum(axis=1)
    mean = sums.sum(axis=1) / total
    distance = np.abs(mean - null_difference) - step / 2 / total
    off = sums - mean[:, None] * sizes
    squares = (off**2).sum(axis=1)
    error = np.sqrt(count / max(1, count - 1) * squares) / total
    is_known = error > ROUNDING
    t = np.where(is_known, distance / np.where(is_known, error, 1.0), np.where(distance > 0, BEYOND, 0.0))
    skewness = np.where(
        is_known, (off**3).mean(axis=1) / np.where(is_known, squares / count, 1.0) ** 1.5, 0.0
    )
    freedom = np.maximum(1.0, np.floor(total**2 / (sizes * sizes).sum(axis=1) + ROUNDING) - 1)

    def compute_t_test_p_values(skewness_factor: float) -> Any:
        bend = skewness_factor * np.sign(mean - null_difference) * skewness / math.sqrt(count)
        of_arrays: Any = remove_skewness
        least = np.minimum(t, of_arrays(t, bend))
        return 2 * stdtr(freedom, -np.maximum(0.0, least))

    # that of the sample is less than that of what it is drawn from
    unbiased = math.sqrt(count * (count - 1)) / max(1, count - 2)
    strict = np.maximum(
        compute_t_test_p_values(1.0),
        compute_empirical_likelihood_p_values(sums, sizes, null_difference, step),
    )
    if is_strict:
        return strict
    little_lost = compute_empirical_likelihood_p_values(sums, sizes, null_difference, step, LOST_ANSWERS)
    return np.minimum(strict, CAUTION * np.maximum(compute_t_test_p_values(unbiased), little_lost))
