"""The interval of an accuracy, also where questions come in clusters (twins, questions about one
text).

Where questions were answered several times, the accuracy is the mean over the answers, and a
question is a cluster of them: a vote of the answers is another figure, `maj_at_k`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from runner_compare.metrics import BOUNDS
from runner_compare.statistics import ratios
from runner_compare.statistics.bounded_means import chance_of
from runner_compare.statistics.stats import ALPHA, edge, exact_interval, student_quantile, wilson_interval


def share_interval(
    shares: Sequence[float], families: Sequence[str | None], answers: Sequence[int] = ()
) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy from the share of right answers to each question.

    `answers` is how many answers each question has; without it each has one, and its share is 0 or
    1.
    """
    if not shares:
        return wilson_interval(0, 0)
    # in the mean of such means
    each = len(answers) / math.fsum(1 / count for count in answers) if answers else 1.0
    if None not in families:
        return clustered_share_interval(shares, families, each=each)
    if each > 1:
        return clustered_share_interval(shares, range(len(shares)), each=each)
    return wilson_interval(math.fsum(shares), len(shares))


def accuracy_figures(
    shares: Sequence[float], families: Sequence[str | None], answers: Sequence[int] = ()
) -> dict[str, float]:
    """Return an accuracy with its interval, as the metrics of a run, and the number of families if
    it counts them."""
    low, high = share_interval(shares, families, answers)
    accuracy = math.fsum(shares) / len(shares)
    figures = {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high, "n": len(shares)}
    return figures | ({} if None in families else {"families": len(set(families))})


def bounds_of_accuracy(
    at_worst: Sequence[float],
    at_best: Sequence[float],
    families: Sequence[str | None],
    answers: Sequence[int] = (),
) -> dict[str, float]:
    """Return what the accuracy would be without a limit of tokens; nothing if no answer was cut
    off.

    The shares of right answers to each question if all answers that were cut off are wrong, and if
    all are right: the truth is between these two. The lower end of one's interval and the upper end
    of the other's hold it with at least 95 %, whatever the answers would have been: so each end has
    to hold by itself (bench/compare/bounds_null.py).
    """
    if list(at_worst) == list(at_best):
        return {}
    means = (math.fsum(shares) / len(shares) for shares in (at_worst, at_best))
    of_units = (
        families
        if None not in families or max(answers, default=1) == 1
        else [*map(str, range(len(families)))]
    )
    ends = guaranteed_interval(at_worst, of_units)[0], guaranteed_interval(at_best, of_units)[1]
    return dict(zip(BOUNDS, (*means, *ends), strict=True))


def guaranteed_interval(solved: Sequence[float], families: Sequence[str | None]) -> tuple[float, float]:
    """Return the interval of an accuracy of which each end is beyond the truth in at most 2.5 %,
    whatever that is.

    Of questions it is Clopper and Pearson's, of families Gaffke's (bounded_means.py), which is the
    same if each has one question.
    """
    if not solved or None in families:
        return exact_interval(sum(solved), len(solved))
    sums, sizes = ratios.cluster_sums(list(map(float, solved)), families)
    failures = [size - right for right, size in zip(sums, sizes, strict=True)]
    share = math.fsum(sums) / len(solved)
    low = 1 - edge(lambda true: chance_of(failures, sizes, true, 1) >= ALPHA / 2, 1 - share, 1.0)
    return low, edge(lambda true: chance_of(sums, sizes, true, 1) >= ALPHA / 2, share, 1.0)


def clustered_share_interval(
    shares: Sequence[float], clusters: Sequence[Hashable], alpha: float = ALPHA, each: float = 1.0
) -> tuple[float, float]:
    """Return a 95 % interval of the share of right answers, in more such clusters; (0, 1) for fewer
    than 2.

    Each question has a share of right answers; `each` is how many answers that is the share of.
    """
    return interval_of_sums(*ratios.cluster_sums(list(map(float, shares)), clusters), alpha, each)


def interval_of_sums(
    sums: Sequence[float], sizes: Sequence[float], alpha: float = ALPHA, each: float = 1.0
) -> tuple[float, float]:
    """Return a 95 % interval of a share from the sum and the size of each cluster.

    It joins two, at Student's quantile for as many clusters as have both kinds of answers: Wilson's
    for as many independent questions as the clusters are worth, and Hall's, without the skewness of
    a few clusters with all the wrong answers. It is never wider than Wilson's for clusters whose
    questions all agree (cluster_null.py, bench/compare/answer_means_null.py).
    """
    n, count = math.fsum(sizes), len(sums)
    if count < 2:
        return 0.0, 1.0
    share, variance = math.fsum(sums) / n, ratios.jackknife_variance(sums, sizes)
    of_answers = share * (1 - share) / (n * each)
    clusters_worth = ratios.equal_clusters(sizes)
    worth = n * each * of_answers / max(variance, of_answers) if of_answers > 0 else clusters_worth
    mixed = min(sum(own > 0 for own in sums), sum(own < size for own, size in zip(sums, sizes, strict=True)))
    # Satterthwaite's degrees of freedom of the jackknife: its terms grow with the square of the
    # sizes.
    freedom = math.fsum(size**2 for size in sizes) ** 2 / math.fsum(size**4 for size in sizes) - 1
    bound = student_quantile(alpha, max(1, int(min(freedom, mixed - 1))))
    widest = student_quantile(alpha, max(1, int(freedom)))
    bend = ratios.skewness(sums, sizes) / math.sqrt(count)

    def is_inside(true: float) -> bool:
        gap = share - true
        estimated, at_worst = (_score(gap, true, worth), _score(gap, true, min(worth, clusters_worth)))
        skewed = (
            ratios.unskewed(gap / math.sqrt(variance), bend) if variance > 0 else math.copysign(math.inf, gap)
        )
        return abs(at_worst) <= widest and min(abs(estimated), abs(skewed)) <= bound

    return edge(is_inside, share, 0.0), edge(is_inside, share, 1.0)


def _score(gap: float, true: float, worth: float) -> float:
    """Return the distance of an observed share from a true one, in standard errors under the true
    one."""
    if not 0 < true < 1:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(true * (1 - true) / worth)
