"""The mean difference of two runs that answered the same questions: its test, its interval, and what it could detect.

A question's number is a verdict or a share of right answers, so differences lie in -1..1. Questions may belong to
clusters (twins, questions about one text): those of one cluster are not independent, so the cluster is the unit of each
statistic here, and without clusters the question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from runner.core import ratios, stats
from runner.core.bounded_means import bounded_p, chance_of
from runner.core.margins import fewest, questions_needed
from runner.core.planning import expected_disagreement
from runner.core.stats import ALPHA, HALVINGS, POWER, edge

MIN_CLUSTERS = 6  # with five, no test can reach a p below 0.05
MANY_CLUSTERS = 60  # from here on cautious tests hold, unless fewer than 1 cluster in 20 has all the losses
LEAST_WORTH = 0.5  # in clusters of equal size, as a share of that


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference over n questions in clusters.

    Few clusters do not show whether a rare one loses everything: the test and the interval of fewer than MANY_CLUSTERS
    allow for that (bounded_means.py). From there on p is twice the larger one of sign flips and of Hall's test with
    Student's, nearly as for likelihoods. The interval joins two, at Student's quantile for half the level and for as
    many clusters as differ (unequal ones count as fewer): Tango's score interval for as many independent pairs as the
    clusters are worth, which stays asymmetric where nearly all answers are right; and Hall's, without the skewness of a
    few clusters with all the losses. It is never wider than Tango's for clusters whose questions all agree. Both ends
    agree with the test about 0 (bench/cluster_null.py).
    """

    n: int
    wins: float  # the sum of the differences above 0
    losses: float  # minus the sum of those below 0
    sums: tuple[float, ...]  # of the differences in each cluster
    sizes: tuple[float, ...]  # questions in each cluster
    p: float
    error: float  # by the jackknife over clusters
    worth: float  # in independent pairs of verdicts
    clusters_worth: float  # in clusters of equal size
    differing: int  # clusters in which the two differ at all
    bend: float  # the skewness of the clusters' sums over the root of their number

    @classmethod
    def of(cls, differences: Sequence[float], clusters: Sequence[Hashable] | None = None) -> MeanDifference:
        """Compute it from the difference of each question, and the cluster of each; None: each is one of its own."""
        n = len(differences)
        sums, sizes = map(tuple, ratios.cluster_sums(differences, clusters))
        wins = math.fsum(it for it in differences if it > 0)
        losses = -math.fsum(it for it in differences if it < 0)
        mean, count, variance = (wins - losses) / n, len(sums), ratios.jackknife_variance(sums, sizes)
        of_verdicts = ((wins + losses) / n - mean**2) / n  # if they were as many independent pairs of verdicts
        of_questions = (math.fsum(it * it for it in differences) / n - mean**2) / n
        largest = max(variance, of_questions)
        clusters_worth = ratios.equal_clusters(sizes)
        differing, _ = ratios.cluster_sums([float(it != 0) for it in differences], clusters)
        return cls(
            n,
            wins,
            losses,
            sums,
            sizes,
            ratios.paired_p(sums, sizes, ratios.CAUTION)
            if is_many(count, clusters_worth)
            else bounded_p(sums, sizes, 0.0),
            math.sqrt(variance),
            n * of_verdicts / largest if of_verdicts > 0 and largest > 0 else n,
            clusters_worth,
            sum(map(bool, differing)),
            ratios.skewness(sums, sizes) / math.sqrt(count),
        )

    @property
    def is_many(self) -> bool:
        """Whether the clusters show how skewed they are."""
        return is_many(len(self.sums), self.clusters_worth)

    @property
    def difference(self) -> float:
        """The mean."""
        return (self.wins - self.losses) / self.n

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval."""
        if not self.is_many:
            return self._ends_of_few(ALPHA)
        level = ALPHA / ratios.CAUTION
        bound, widest = (stats.student_quantile(level, freedom) for freedom in self._freedoms)

        def is_inside(difference: float) -> bool:
            estimated, skewed, agreeing = self._distances(difference)
            return abs(agreeing) <= widest and min(abs(estimated), abs(skewed)) <= bound

        low, high = edge(is_inside, self.difference, -1.0), edge(is_inside, self.difference, 1.0)
        if self.p < ALPHA:  # the test excludes one side, so the interval does, too
            low, high = (max(low, 0.0), high) if self.difference > 0 else (low, min(high, 0.0))
        return low, high

    def p_at(self, difference: float) -> float:
        """Return the two-sided p against a true difference, to which the interval belongs."""
        if difference == 0:
            return self.p
        if not self.is_many:
            return bounded_p(self.sums, self.sizes, difference)
        estimated, skewed, agreeing = self._distances(difference)
        freedom, widest = self._freedoms
        nearest = min(abs(estimated), abs(skewed))
        p = min(stats.student_p(nearest, freedom), stats.student_p(agreeing, widest))
        return min(1.0, ratios.CAUTION * p)

    @property
    def _freedoms(self) -> tuple[int, int]:
        """Student's degrees of freedom: for as many clusters as differ, and for all."""
        return (
            max(1, int(min(self.clusters_worth, self.differing)) - 1),
            max(1, int(self.clusters_worth) - 1),
        )

    def detects(self, alpha: float) -> float | None:
        """Return the smallest true difference that the test detects at this level with 80 % power; None without one."""
        if alpha < 2.0 ** (1 - len(self.sums)):
            return None
        if not self.is_many:
            return self._few_detect(alpha)
        alpha /= ratios.CAUTION
        differing_rate = (self.wins + self.losses) / self.n
        pairs = max(1, int(self.worth))
        least = stats.detectable_difference(pairs, min(1.0, differing_rate), alpha)
        if least is None:
            return None
        normal = NormalDist()
        by_normal = -normal.inv_cdf(alpha / 2) + normal.inv_cdf(POWER)
        by_student = stats.student_quantile(alpha, self._freedoms[1]) + normal.inv_cdf(POWER)
        return min(1.0, least * by_student / by_normal)

    def _ends_of_few(self, alpha: float) -> tuple[float, float]:
        """Return the interval of few clusters at this level."""

        def ends(worst: int) -> float:
            return edge(
                lambda mean: chance_of(self.sums, self.sizes, mean, worst) >= alpha / 2,
                self.difference,
                float(worst),
                HALVINGS // 2,
            )

        return ends(-1), ends(1)

    def _few_detect(self, alpha: float) -> float | None:
        """Return that of few clusters: by how much the interval is wide, and what chance takes from it."""
        low, high = self._ends_of_few(alpha)
        least = max(self.difference - low, high - self.difference) + self.error * NormalDist().inv_cdf(POWER)
        return least if least < 1 else None

    def needs(self, margin: float, alpha: float, power: float = POWER) -> int | None:
        """Return how many questions, in more such clusters, show that a run is as good if neither is better."""
        alpha /= ratios.CAUTION
        # Where nothing differs, nothing shows how alike the questions of a cluster are: at worst, a cluster is a pair.
        pairs = self.worth if self.differing else self.clusters_worth
        differing_rate = min(1.0, (self.wins + self.losses) / self.n)
        needed = questions_needed(margin, expected_disagreement(differing_rate * pairs, pairs), alpha, power)
        if needed is None:
            return None
        count = len(self.sums)
        differing = expected_disagreement(self.differing, count) * count
        counts = [  # either test decides: that by the clusters that differ, or at worst that by all
            _with_student(needed * self.n / pairs, differing / self.n, alpha, power),
            _with_student(
                needed * self.n / min(pairs, self.clusters_worth), self.clusters_worth / self.n, alpha, power
            ),
        ]
        return min((it for it in counts if it is not None), default=None)

    def _distances(self, difference: float) -> tuple[float, float, float]:
        """Return how far the data are from a true difference, in standard errors: by Tango, by Hall, at worst."""

        def by_tango(pairs: float) -> float:
            share = pairs / self.n
            return stats.paired_score(share * self.wins, share * self.losses, pairs, difference)

        gap = self.difference - difference
        at_worst = by_tango(min(self.worth, self.clusters_worth))
        if self.error > 0:
            return by_tango(self.worth), ratios.unskewed(gap / self.error, self.bend), at_worst
        return by_tango(self.worth), math.copysign(math.inf, gap) if gap else 0.0, at_worst


def is_many(clusters: int, worth: float) -> bool:
    """Whether so many clusters, worth so many of equal size, show how skewed they are."""
    return clusters >= MANY_CLUSTERS and worth >= LEAST_WORTH * MANY_CLUSTERS


def _with_student(questions: float, clusters_a_question: float, alpha: float, power: float) -> int | None:
    """Return how many questions Student's test needs where a normal one needs so many; None if ten million."""
    normal = NormalDist()
    by_normal, by_power = -normal.inv_cdf(alpha / 2), normal.inv_cdf(power)

    def is_enough(count: int) -> float:
        freedom = max(1, int(count * clusters_a_question) - 1)
        wider = (stats.student_quantile(alpha, freedom) + by_power) / (by_normal + by_power)
        return float(count >= questions * wider * wider)

    return fewest(is_enough, 1.0)
