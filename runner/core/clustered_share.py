"""The interval of an accuracy, also where the questions come in clusters (twins, questions about one text)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from runner.core import ratios
from runner.core.bounded_means import chance_of
from runner.core.metrics import BOUNDS
from runner.core.stats import ALPHA, edge, exact_interval, student_quantile, wilson_interval


def share_interval(solved: Sequence[bool], families: Sequence[str | None]) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy: over families if each question's is known, else Wilson's."""
    if solved and None not in families:
        return clustered_share_interval(solved, families)
    return wilson_interval(sum(solved), len(solved))


def accuracy_figures(solved: Sequence[bool], families: Sequence[str | None]) -> dict[str, float]:
    """Return an accuracy with its interval, as the metrics of a run, and the number of families if it counts them."""
    low, high = share_interval(solved, families)
    figures = {"accuracy": sum(solved) / len(solved), "accuracy_low": low, "accuracy_high": high, "n": len(solved)}
    return figures | ({} if None in families else {"families": len(set(families))})


def bounds_of_accuracy(
    at_worst: Sequence[bool], at_best: Sequence[bool], families: Sequence[str | None]
) -> dict[str, float]:
    """Return what the accuracy would be without a limit of tokens; nothing if no answer was cut off.

    The questions that are solved if all answers that were cut off are wrong, and if all are right: the truth is between
    these two. The lower end of one's interval and the upper end of the other's hold it with at least 95 %, whatever the
    answers would have been: so each end has to hold by itself (bench/bounds_null.py).
    """
    if list(at_worst) == list(at_best):
        return {}
    shares = (sum(solved) / len(solved) for solved in (at_worst, at_best))
    ends = guaranteed_interval(at_worst, families)[0], guaranteed_interval(at_best, families)[1]
    return dict(zip(BOUNDS, (*shares, *ends), strict=True))


def guaranteed_interval(solved: Sequence[bool], families: Sequence[str | None]) -> tuple[float, float]:
    """Return the interval of an accuracy of which each end is beyond the truth in at most 2.5 %, whatever that is.

    Of questions it is Clopper and Pearson's, of families Gaffke's (bounded_means.py), which is the same if each has one
    question.
    """
    if not solved or None in families:
        return exact_interval(sum(solved), len(solved))
    sums, sizes = ratios.cluster_sums(list(map(float, solved)), families)
    failures = [size - right for right, size in zip(sums, sizes, strict=True)]
    share = math.fsum(sums) / len(solved)
    low = 1 - edge(lambda true: chance_of(failures, sizes, true, 1) >= ALPHA / 2, 1 - share, 1.0)
    return low, edge(lambda true: chance_of(sums, sizes, true, 1) >= ALPHA / 2, share, 1.0)


def clustered_share_interval(
    solved: Sequence[bool], clusters: Sequence[Hashable], alpha: float = ALPHA
) -> tuple[float, float]:
    """Return a 95 % interval of the share of questions that are solved, in more such clusters; (0, 1) for fewer than 2.

    It joins two, at Student's quantile for as many clusters as have both kinds of answers: Wilson's for as many
    independent questions as the clusters are worth, and Hall's, without the skewness of a few clusters with all the
    wrong answers. It is never wider than Wilson's for clusters whose questions all agree (bench/cluster_null.py).
    """
    sums, sizes = ratios.cluster_sums(list(map(float, solved)), clusters)
    n, count = len(solved), len(sums)
    if count < 2:
        return 0.0, 1.0
    share, variance = math.fsum(sums) / n, ratios.jackknife_variance(sums, sizes)
    of_questions = share * (1 - share) / n
    clusters_worth = ratios.equal_clusters(sizes)
    worth = n * of_questions / max(variance, of_questions) if of_questions > 0 else clusters_worth
    mixed = min(sum(own > 0 for own in sums), sum(own < size for own, size in zip(sums, sizes, strict=True)))
    # Satterthwaite's degrees of freedom of the jackknife: its terms grow with the square of the sizes.
    freedom = math.fsum(it**2 for it in sizes) ** 2 / math.fsum(it**4 for it in sizes) - 1
    bound = student_quantile(alpha, max(1, int(min(freedom, mixed - 1))))
    widest = student_quantile(alpha, max(1, int(freedom)))
    bend = ratios.skewness(sums, sizes) / math.sqrt(count)

    def is_inside(true: float) -> bool:
        gap = share - true
        estimated, at_worst = _score(gap, true, worth), _score(gap, true, min(worth, clusters_worth))
        skewed = ratios.unskewed(gap / math.sqrt(variance), bend) if variance > 0 else math.copysign(math.inf, gap)
        return abs(at_worst) <= widest and min(abs(estimated), abs(skewed)) <= bound

    return edge(is_inside, share, 0.0), edge(is_inside, share, 1.0)


def _score(gap: float, true: float, worth: float) -> float:
    """Return the distance of an observed share from a true one, in standard errors under the true one."""
    if not 0 < true < 1:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(true * (1 - true) / worth)
