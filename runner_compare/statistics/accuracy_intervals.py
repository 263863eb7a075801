"""Confidence intervals of an accuracy, for independent and clustered questions.

Questions form clusters if they are perturbed versions of one another, or about one text.
Where questions have several answers, the accuracy is the mean over the answers, and each
question is a cluster of them. The accuracy of their majority vote is another metric,
`maj_at_k`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from runner_compare.metrics import BOUNDS
from runner_compare.statistics import ratios
from runner_compare.statistics.bounded_means import compute_mean_p_value
from runner_compare.statistics.stats import (
    ALPHA,
    bisect_to_interval_end,
    compute_clopper_pearson_interval,
    compute_student_quantile,
    compute_wilson_interval,
)


def accuracy_interval(
    question_accuracies: Sequence[float],
    clusters: Sequence[str | None],
    answers_per_question: Sequence[int] = (),
) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, given each question's fraction of correct answers.

    Without `answers_per_question`, each question has one answer, and its accuracy is 0 or 1.
    """
    if not question_accuracies:
        return compute_wilson_interval(0, 0)
    # in the mean of such means
    each = (
        len(answers_per_question) / math.fsum(1 / count for count in answers_per_question)
        if answers_per_question
        else 1.0
    )
    if None not in clusters:
        return clustered_accuracy_interval(question_accuracies, clusters, mean_answers=each)
    if each > 1:
        return clustered_accuracy_interval(
            question_accuracies, range(len(question_accuracies)), mean_answers=each
        )
    return compute_wilson_interval(math.fsum(question_accuracies), len(question_accuracies))


def compute_accuracy_metrics(
    question_accuracies: Sequence[float],
    clusters: Sequence[str | None],
    answers_per_question: Sequence[int] = (),
) -> dict[str, float]:
    low, high = accuracy_interval(question_accuracies, clusters, answers_per_question)
    accuracy = math.fsum(question_accuracies) / len(question_accuracies)
    figures = {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "n": len(question_accuracies),
    }
    return figures | ({} if None in clusters else {"families": len(set(clusters))})


def compute_accuracy_bound_metrics(
    at_worst: Sequence[float],
    at_best: Sequence[float],
    clusters: Sequence[str | None],
    answers_per_question: Sequence[int] = (),
) -> dict[str, float]:
    """Return bounds of the accuracy that a run could have without a token limit; {} if no answer was cut off.

    `at_worst` and `at_best` are the questions' accuracies if all cut-off answers are wrong, or
    correct. The true accuracy is between the two means. The metrics are the lower end of the
    interval at worst and the upper end of the interval at best. Together they contain the true
    accuracy with at least 95 % (bench/compare/bounds_null.py).
    """
    if list(at_worst) == list(at_best):
        return {}
    means = (math.fsum(shares) / len(shares) for shares in (at_worst, at_best))
    of_units = (
        clusters
        if None not in clusters or max(answers_per_question, default=1) == 1
        else [*map(str, range(len(clusters)))]
    )
    ends = (
        compute_exact_accuracy_interval(at_worst, of_units)[0],
        compute_exact_accuracy_interval(at_best, of_units)[1],
    )
    return dict(zip(BOUNDS, (*means, *ends), strict=True))


def compute_exact_accuracy_interval(
    solved: Sequence[float], clusters: Sequence[str | None]
) -> tuple[float, float]:
    """Return an accuracy's exact 95 % interval.

    For questions it is Clopper and Pearson's interval, for clusters Gaffke's
    (bounded_means.py), which is the same if each cluster has one question.
    """
    if not solved or None in clusters:
        return compute_clopper_pearson_interval(sum(solved), len(solved))
    sums, sizes = ratios.sum_by_cluster(list(map(float, solved)), clusters)
    failures = [size - right for right, size in zip(sums, sizes, strict=True)]
    share = math.fsum(sums) / len(solved)
    low = 1 - bisect_to_interval_end(
        lambda true: compute_mean_p_value(failures, sizes, true, 1) >= ALPHA / 2, 1 - share, 1.0
    )
    return low, bisect_to_interval_end(
        lambda true: compute_mean_p_value(sums, sizes, true, 1) >= ALPHA / 2, share, 1.0
    )


def clustered_accuracy_interval(
    question_accuracies: Sequence[float],
    clusters: Sequence[Hashable],
    alpha: float = ALPHA,
    mean_answers: float = 1.0,
) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy over clusters; (0, 1) for fewer than two clusters.

    `mean_answers` is the number of answers per question.
    """
    return compute_clustered_proportion_interval(
        *ratios.sum_by_cluster(list(map(float, question_accuracies)), clusters), alpha, mean_answers
    )


def compute_clustered_proportion_interval(
    sums: Sequence[float], sizes: Sequence[float], alpha: float = ALPHA, mean_answers: float = 1.0
) -> tuple[float, float]:
    """Return the 95 % interval of a proportion, given the sum and size of each cluster.

    It combines two intervals, at Student's quantile for as many clusters as have both kinds of
    answers: Wilson's for the equivalent number of independent questions, and Hall's, which
    corrects the skewness of a few clusters with all the wrong answers. It is never wider than
    Wilson's for clusters whose questions all agree (cluster_null.py,
    bench/compare/answer_means_null.py).
    """
    n, count = math.fsum(sizes), len(sums)
    if count < 2:
        return 0.0, 1.0
    share, variance = math.fsum(sums) / n, ratios.compute_jackknife_variance(sums, sizes)
    of_answers = share * (1 - share) / (n * mean_answers)
    clusters_worth = ratios.effective_num_clusters(sizes)
    worth = n * mean_answers * of_answers / max(variance, of_answers) if of_answers > 0 else clusters_worth
    mixed = min(sum(own > 0 for own in sums), sum(own < size for own, size in zip(sums, sizes, strict=True)))
    # Satterthwaite's degrees of freedom of the jackknife: its terms grow with the square of the
    # sizes.
    freedom = math.fsum(size**2 for size in sizes) ** 2 / math.fsum(size**4 for size in sizes) - 1
    bound = compute_student_quantile(alpha, max(1, int(min(freedom, mixed - 1))))
    widest = compute_student_quantile(alpha, max(1, int(freedom)))
    bend = ratios.skewness(sums, sizes) / math.sqrt(count)

    def is_compatible(true_accuracy: float) -> bool:
        gap = share - true_accuracy
        estimated, at_worst = (
            _compute_score_statistic(gap, true_accuracy, worth),
            _compute_score_statistic(gap, true_accuracy, min(worth, clusters_worth)),
        )
        skewed = (
            ratios.remove_skewness(gap / math.sqrt(variance), bend)
            if variance > 0
            else math.copysign(math.inf, gap)
        )
        return abs(at_worst) <= widest and min(abs(estimated), abs(skewed)) <= bound

    return bisect_to_interval_end(is_compatible, share, 0.0), bisect_to_interval_end(
        is_compatible, share, 1.0
    )


def _compute_score_statistic(observed_gap: float, true_proportion: float, effective_n: float) -> float:
    if not 0 < true_proportion < 1:
        return math.copysign(math.inf, observed_gap) if observed_gap else 0.0
    return observed_gap / math.sqrt(true_proportion * (1 - true_proportion) / effective_n)
