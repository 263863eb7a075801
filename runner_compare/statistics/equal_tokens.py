"""Compares the accuracies of two configurations at equal token counts, across several thinking budgets.

A setting's accuracy is a curve over the mean tokens per question, with a point for each
budget and straight lines between them. Two curves are compared only where both have points
on either side. The interval and p-value come from a bootstrap over questions (or clusters):
each resample moves the points of both curves together, in tokens and in accuracy. The
percentile interval is widened by the ratio of Student's t to the normal (Hesterberg, The
American Statistician 69, 2015), since it covers too little with few questions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from runner_compare.statistics import stats
from runner_compare.statistics.decisions import Finding
from runner_compare.statistics.seed_means import SeedQuestionMatrix
from runner_compare.statistics.stats import ALPHA
from runner_compare.statistics.token_costs import Estimate

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float64]]

RESAMPLES = 4000
AT_ONCE = 2_000_000  # numbers of a block of resamples: they fit the cache
# or families: of fewer, the interval covers too little (bench/compare/equal_tokens_null.py)
MIN_QUESTIONS = 50
FEW = 8  # over n: by this share the interval is wider, as curves bend within the noise of few questions
MIN_DIFFERING = 20  # questions: of fewer, the observed differences say too little of those to come
LEAST_GAP = 0.1  # of a verdict between two budgets: less is hardly a difference
NORMAL = NormalDist()


@dataclass(frozen=True)
class BudgetCurve:
    """Verdicts and token counts of the same questions at several thinking budgets."""

    right: SeedQuestionMatrix  # 1 where the question was solved, else 0
    tokens: SeedQuestionMatrix

    def mean_points(self) -> list[tuple[float, float]]:
        return [
            (math.fsum(of_tokens) / len(of_tokens), math.fsum(of_right) / len(of_right))
            for of_tokens, of_right in zip(self.tokens, self.right, strict=True)
        ]


@dataclass(frozen=True)
class AccuracyAtTokens:
    """Accuracies of two configurations at the mean token count of one budget, and their difference."""

    budget: int  # the row of the curve
    tokens: float
    accuracy: float
    baseline_accuracy: float
    difference: Estimate


@dataclass
class EqualTokensComparison:
    """Mean difference between two accuracy curves over the token range that both curves cover."""

    questions: int
    clusters: int | None  # families of questions, if these were drawn
    low_tokens: float  # the range of tokens that both curves have
    high_tokens: float
    difference: Estimate
    p: float
    points: list[AccuracyAtTokens]
    # budgets of the first curve that the second does not reach
    outside: list[int] = field(default_factory=list)
    p_holm: float = 1.0
    finding: Finding = Finding.open


@dataclass
class ComparedCurves:
    """Comparison of a configuration with its baseline at equal token counts.

    If there is no comparison, `note` has the reason.
    """

    setting: dict[str, str | None]
    baseline: dict[str, str | None]
    budgets: list[str | None]  # of the setting, in the order of its curve
    result: EqualTokensComparison | None
    note: str = ""


def compare_accuracies_at_equal_tokens(
    candidate_curve: BudgetCurve,
    base_curve: BudgetCurve,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> EqualTokensComparison | None:
    """Compare the accuracies of two configurations over the range of token counts that both cover.

    Returns None if the shared range is within noise.
    """
    import numpy as np

    n = len(candidate_curve.right[0])
    units, of_unit = np.unique(
        range(n) if clusters is None else [str(cluster) for cluster in clusters], return_inverse=True
    )
    # rows: what is summed; columns: units
    our_sums, their_sums = (
        _sum_by_resampling_unit([*curve.tokens, *curve.right, [1.0] * n], of_unit, len(units))
        for curve in (candidate_curve, base_curve)
    )
    once = np.ones((1, len(units)))
    our_points, their_points = (
        _compute_mean_tokens_and_accuracies(once, our_sums),
        _compute_mean_tokens_and_accuracies(once, their_sums),
    )
    low, high = _shared_token_range(our_points, their_points)
    if low[0] >= high[0]:
        return None
    value = float(_compute_mean_curve_difference(our_points, their_points, low, high)[0])
    drawn, at_budgets, inside = [], [], []
    generator, left, block = np.random.default_rng(0), resamples, max(1, AT_ONCE // len(units))
    while left:
        count, left = min(block, left), left - min(block, left)
        weights = _draw_bootstrap_weights(generator, count, len(units))
        drawn_points, drawn_base_points = (
            _compute_mean_tokens_and_accuracies(weights, our_sums),
            _compute_mean_tokens_and_accuracies(weights, their_sums),
        )
        ends = _shared_token_range(drawn_points, drawn_base_points)
        drawn.append(
            np.where(
                ends[0] < ends[1],
                _compute_mean_curve_difference(drawn_points, drawn_base_points, *ends),
                np.nan,
            )
        )
        tokens, right = drawn_points
        at_budgets.append(right - _interpolate_accuracy_curves(drawn_base_points, tokens))
        inside.append(
            (tokens >= drawn_base_points[0].min(1, keepdims=True))
            & (tokens <= drawn_base_points[0].max(1, keepdims=True))
        )
    means = np.concatenate(drawn)
    if np.isnan(means).mean() > ALPHA / 2:
        return None
    means = means[~np.isnan(means)]
    scale = math.sqrt(len(units) / (len(units) - 1))  # a resample's variance divides by n
    scale *= 1 + FEW / len(units)
    differences, reached = (np.concatenate(at_budgets), np.concatenate(inside).mean(0) >= 1 - ALPHA / 2)
    (own_tokens, own_right), its_right = our_points, _interpolate_accuracy_curves(their_points, our_points[0])
    points = []
    for at in np.flatnonzero(reached).tolist():
        our_accuracy, their_accuracy = float(own_right[0, at]), float(its_right[0, at])
        there, tokens_there = our_accuracy - their_accuracy, float(own_tokens[0, at])
        signs = _count_positive_and_negative_sums(
            _compute_verdict_differences_per_question(
                candidate_curve.right[at], base_curve, their_points[0][0], tokens_there
            ),
            of_unit,
        )
        interval = _compute_bootstrap_interval(there, differences[:, at], scale, len(units), signs)
        points.append(
            AccuracyAtTokens(at, tokens_there, our_accuracy, their_accuracy, Estimate(there, *interval))
        )
    signs = _count_positive_and_negative_sums(
        np.mean(candidate_curve.right, axis=0) - np.mean(base_curve.right, axis=0), of_unit
    )
    p, (lowest, highest) = (
        _compute_bootstrap_p_value(means, scale, len(units)),
        _compute_bootstrap_interval(value, means, scale, len(units), signs),
    )
    if sum(signs) < MIN_DIFFERING:
        p = max(p, stats.compute_exact_mcnemar_p_value(*signs))
    if p >= ALPHA:  # the test decides
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    return EqualTokensComparison(
        n,
        None if clusters is None else len(units),
        float(low[0]),
        float(high[0]),
        Estimate(value, lowest, highest),
        p,
        points,
        [at for at, is_reached in enumerate(reached.tolist()) if not is_reached],
    )


def decide_equal_tokens(comparisons: Sequence[EqualTokensComparison]) -> None:
    """Decide all equal-token comparisons of a table at a family-wise error rate of 5 %."""
    for result, p_holm in zip(
        comparisons, stats.holm_adjust([tested.p for tested in comparisons]), strict=True
    ):
        result.p_holm = p_holm
        if p_holm < ALPHA:
            result.finding = Finding.better if result.difference.value > 0 else Finding.worse


def _sum_by_resampling_unit(
    values_by_budget: SeedQuestionMatrix, unit_per_question: Any, num_units: int
) -> FloatArray:
    import numpy as np

    return np.array([np.bincount(unit_per_question, row, num_units) for row in values_by_budget])


def _draw_bootstrap_weights(generator: np.random.Generator, num_resamples: int, num_units: int) -> FloatArray:
    """Return how often each question or cluster occurs in each bootstrap resample."""
    import numpy as np

    chosen = (
        generator.integers(num_units, size=(num_resamples, num_units))
        + num_units * np.arange(num_resamples)[:, None]
    )
    return (
        np.bincount(chosen.ravel(), minlength=num_resamples * num_units)
        .reshape(num_resamples, num_units)
        .astype(float)
    )


def _compute_mean_tokens_and_accuracies(
    weights: FloatArray, sums: FloatArray
) -> tuple[FloatArray, FloatArray]:
    *_, sizes = sums
    budgets = len(sums) // 2
    means = (weights @ sums[:-1].T) / (weights @ sizes)[:, None]
    return means[:, :budgets], means[:, budgets:]


def _shared_token_range(
    points: tuple[FloatArray, FloatArray], base_points: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    import numpy as np

    return (
        np.maximum(points[0].min(1), base_points[0].min(1)),
        np.minimum(points[0].max(1), base_points[0].max(1)),
    )


def _interpolate_accuracy_curves(curve: tuple[FloatArray, FloatArray], tokens: FloatArray) -> FloatArray:
    """Interpolate the accuracies of curves at token counts. Beyond its ends, a curve stays constant."""
    import numpy as np

    order = np.argsort(curve[0], axis=1, kind="stable")
    x, y = (np.take_along_axis(axis, order, 1) for axis in curve)
    found = np.repeat(y[:, :1], tokens.shape[1], 1)
    for at in range(x.shape[1] - 1):
        width = x[:, at + 1, None] - x[:, at, None]
        share = np.clip((tokens - x[:, at, None]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        share = np.where(width > 0, share, tokens >= x[:, at, None])
        found = found + share * (y[:, at + 1, None] - y[:, at, None])
    return found


def _compute_mean_curve_difference(
    points: tuple[FloatArray, FloatArray],
    base_points: tuple[FloatArray, FloatArray],
    low: FloatArray,
    high: FloatArray,
) -> FloatArray:
    """Return the exact mean difference of two piecewise linear curves over a token range."""
    import numpy as np

    at = np.sort(np.clip(np.concatenate([points[0], base_points[0]], 1), low[:, None], high[:, None]), axis=1)
    gaps = _interpolate_accuracy_curves(points, at) - _interpolate_accuracy_curves(base_points, at)
    area = ((gaps[:, 1:] + gaps[:, :-1]) / 2 * np.diff(at, axis=1)).sum(1)
    width = high - low
    return np.where(width > 0, area / np.where(width > 0, width, 1.0), 0.0)


def _compute_verdict_differences_per_question(
    verdicts: Sequence[float], base_curve: BudgetCurve, base_tokens: FloatArray, tokens: float
) -> FloatArray:
    """Return each question's verdict minus the baseline's verdict at the same token count."""
    import numpy as np

    order = np.argsort(base_tokens, kind="stable")
    at = int(np.clip(np.searchsorted(base_tokens[order], tokens), 1, len(order) - 1))
    below, above = (int(budget) for budget in order[at - 1 : at + 1])
    width = base_tokens[above] - base_tokens[below]
    share = float(np.clip((tokens - base_tokens[below]) / width, 0.0, 1.0)) if width > 0 else 1.0
    return (
        np.array(verdicts)
        - (1 - share) * np.array(base_curve.right[below])
        - share * np.array(base_curve.right[above])
    )


def _count_positive_and_negative_sums(differences: FloatArray, unit_per_question: Any) -> tuple[int, int]:
    import numpy as np

    sums = np.bincount(unit_per_question, differences)
    return int((sums > LEAST_GAP).sum()), int((sums < -LEAST_GAP).sum())


def _compute_bootstrap_interval(
    value: float, resampled_values: FloatArray, scale: float, units: int, signs: tuple[int, int]
) -> tuple[float, float]:
    """Return the percentile interval of bootstrap resamples, widened for small samples.

    Where few questions differ, it also contains the interval of the sign test.
    """
    import numpy as np

    tail = NORMAL.cdf(-scale * stats.compute_student_quantile(ALPHA, units - 1))
    low, high = (float(end) for end in np.quantile(resampled_values, [tail, 1 - tail]))
    if sum(signs) < MIN_DIFFERING:
        by_signs = stats.compute_paired_difference_interval(*signs, units)
        low, high = min(low, by_signs[0]), max(high, by_signs[1])
    return max(-1.0, min(low, value)), min(1.0, max(high, value))


def _compute_bootstrap_p_value(resampled_values: FloatArray, scale: float, units: int) -> float:
    beyond = min(float((resampled_values <= 0).sum()), float((resampled_values >= 0).sum()))
    tail = (1 + beyond) / (1 + len(resampled_values))
    return min(1.0, stats.student_p_value(NORMAL.inv_cdf(min(tail, 0.5)) / scale, units - 1))
