"""Accuracy at equal tokens: two settings that were asked the same questions at several budgets of
thinking.

A setting's accuracy is a curve over the tokens that a question takes in the mean, with a point for
each budget and straight lines between them. Two curves are compared only where both have points on
either side. The interval and p come from a bootstrap over questions (or families of questions):
each resample moves the points of both curves together, in tokens and in accuracy. The percentile
interval is widened as Student's t is over the normal (Hesterberg, The American Statistician 69,
2015), since it covers too little with few questions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from runner_compare.statistics import stats
from runner_compare.statistics.decisions import Finding
from runner_compare.statistics.over_seeds import Cells
from runner_compare.statistics.stats import ALPHA
from runner_compare.statistics.token_costs import Estimate

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

RESAMPLES = 4000
AT_ONCE = 2_000_000  # numbers of a block of resamples: they fit the cache
# or families: of fewer, the interval covers too little (bench/compare/equal_tokens_null.py)
MIN_QUESTIONS = 50
FEW = 8  # over n: by this share the interval is wider, as curves bend within the noise of few questions
MIN_DIFFERING = 20  # questions: of fewer, the observed differences say too little of those to come
LEAST_GAP = 0.1  # of a verdict between two budgets: less is hardly a difference
NORMAL = NormalDist()


@dataclass(frozen=True)
class Curve:
    """The verdicts and tokens of the same questions at several budgets: a row for each budget."""

    right: Cells  # 1 where the question was solved, else 0
    tokens: Cells

    def points(self) -> list[tuple[float, float]]:
        """Return the mean tokens and the accuracy at each budget, in the order of the budgets."""
        return [
            (math.fsum(of_tokens) / len(of_tokens), math.fsum(of_right) / len(of_right))
            for of_tokens, of_right in zip(self.tokens, self.right, strict=True)
        ]


@dataclass(frozen=True)
class AtTokens:
    """Both accuracies at the mean tokens of one budget of the first curve, and their difference."""

    budget: int  # the row of the curve
    tokens: float
    accuracy: float
    baseline_accuracy: float
    difference: Estimate


@dataclass
class EqualTokens:
    """By how much one curve is above another, in the mean over the tokens that both have."""

    questions: int
    clusters: int | None  # families of questions, if these were drawn
    low_tokens: float  # the range of tokens that both curves have
    high_tokens: float
    difference: Estimate
    p: float
    points: list[AtTokens]
    # budgets of the first curve that the second does not reach
    outside: list[int] = field(default_factory=list)
    p_holm: float = 1.0
    finding: Finding = Finding.open


@dataclass
class CurvesCompared:
    """A setting with several budgets and its baseline: their keys, and the comparison, or why there
    is none."""

    setting: dict[str, str | None]
    baseline: dict[str, str | None]
    budgets: list[str | None]  # of the setting, in the order of its curve
    result: EqualTokens | None
    note: str = ""


def at_equal_tokens(
    own_curve: Curve,
    base_curve: Curve,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> EqualTokens | None:
    """Compare two curves; None if they do not overlap by more than noise."""
    import numpy as np

    n = len(own_curve.right[0])
    units, of_unit = np.unique(
        range(n) if clusters is None else [str(cluster) for cluster in clusters], return_inverse=True
    )
    # rows: what is summed; columns: units
    our_sums, their_sums = (
        _sums([*curve.tokens, *curve.right, [1.0] * n], of_unit, len(units))
        for curve in (own_curve, base_curve)
    )
    once = np.ones((1, len(units)))
    our_points, their_points = _points(once, our_sums), _points(once, their_sums)
    low, high = _range(our_points, their_points)
    if low[0] >= high[0]:
        return None
    value = float(_mean_difference(our_points, their_points, low, high)[0])
    drawn, at_budgets, inside = [], [], []
    generator, left, block = np.random.default_rng(0), resamples, max(1, AT_ONCE // len(units))
    while left:
        count, left = min(block, left), left - min(block, left)
        weights = _weights(generator, count, len(units))
        drawn_points, drawn_base_points = _points(weights, our_sums), _points(weights, their_sums)
        ends = _range(drawn_points, drawn_base_points)
        drawn.append(
            np.where(ends[0] < ends[1], _mean_difference(drawn_points, drawn_base_points, *ends), np.nan)
        )
        tokens, right = drawn_points
        at_budgets.append(right - _at(drawn_base_points, tokens))
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
    (own_tokens, own_right), its_right = our_points, _at(their_points, our_points[0])
    points = []
    for at in np.flatnonzero(reached).tolist():
        our_accuracy, their_accuracy = float(own_right[0, at]), float(its_right[0, at])
        there, tokens_there = our_accuracy - their_accuracy, float(own_tokens[0, at])
        signs = _signs(_gaps_at(own_curve.right[at], base_curve, their_points[0][0], tokens_there), of_unit)
        interval = _interval(there, differences[:, at], scale, len(units), signs)
        points.append(AtTokens(at, tokens_there, our_accuracy, their_accuracy, Estimate(there, *interval)))
    signs = _signs(np.mean(own_curve.right, axis=0) - np.mean(base_curve.right, axis=0), of_unit)
    p, (lowest, highest) = (_p(means, scale, len(units)), _interval(value, means, scale, len(units), signs))
    if sum(signs) < MIN_DIFFERING:
        p = max(p, stats.mcnemar_exact(*signs))
    if p >= ALPHA:  # the test decides
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    return EqualTokens(
        n,
        None if clusters is None else len(units),
        float(low[0]),
        float(high[0]),
        Estimate(value, lowest, highest),
        p,
        points,
        [at for at, is_reached in enumerate(reached.tolist()) if not is_reached],
    )


def judge_equal_tokens(compared: Sequence[EqualTokens]) -> None:
    """Decide what each comparison of a table shows, with one error of 5 % for all."""
    for result, p_holm in zip(compared, stats.holm([tested.p for tested in compared]), strict=True):
        result.p_holm = p_holm
        if p_holm < ALPHA:
            result.finding = Finding.better if result.difference.value > 0 else Finding.worse


def _sums(rows: Cells, of_unit: Any, count: int) -> Floats:
    """Return the sum of each row over the questions of each unit."""
    import numpy as np

    return np.array([np.bincount(of_unit, row, count) for row in rows])


def _weights(generator: np.random.Generator, count: int, units: int) -> Floats:
    """Return how often each unit is in each of so many resamples."""
    import numpy as np

    chosen = generator.integers(units, size=(count, units)) + units * np.arange(count)[:, None]
    return np.bincount(chosen.ravel(), minlength=count * units).reshape(count, units).astype(float)


def _points(weights: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """Return the mean tokens and the accuracy at each budget, a line for each line of weights."""
    *_, sizes = sums
    budgets = len(sums) // 2
    means = (weights @ sums[:-1].T) / (weights @ sizes)[:, None]
    return means[:, :budgets], means[:, budgets:]


def _range(points: tuple[Floats, Floats], base_points: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    import numpy as np

    return (
        np.maximum(points[0].min(1), base_points[0].min(1)),
        np.minimum(points[0].max(1), base_points[0].max(1)),
    )


def _at(curve: tuple[Floats, Floats], tokens: Floats) -> Floats:
    """Return the accuracy of a curve at these tokens, line by line; beyond its ends, that of the
    end."""
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


def _mean_difference(
    points: tuple[Floats, Floats], base_points: tuple[Floats, Floats], low: Floats, high: Floats
) -> Floats:
    """Return the mean of one curve minus the other from the lower to the upper tokens, exactly:
    both are of lines."""
    import numpy as np

    at = np.sort(np.clip(np.concatenate([points[0], base_points[0]], 1), low[:, None], high[:, None]), axis=1)
    gaps = _at(points, at) - _at(base_points, at)
    area = ((gaps[:, 1:] + gaps[:, :-1]) / 2 * np.diff(at, axis=1)).sum(1)
    width = high - low
    return np.where(width > 0, area / np.where(width > 0, width, 1.0), 0.0)


def _gaps_at(right: Sequence[float], base_curve: Curve, base_tokens: Floats, tokens: float) -> Floats:
    """Return of each question its verdict minus those of the other curve, between the two budgets
    that are nearest."""
    import numpy as np

    order = np.argsort(base_tokens, kind="stable")
    at = int(np.clip(np.searchsorted(base_tokens[order], tokens), 1, len(order) - 1))
    below, above = (int(budget) for budget in order[at - 1 : at + 1])
    width = base_tokens[above] - base_tokens[below]
    share = float(np.clip((tokens - base_tokens[below]) / width, 0.0, 1.0)) if width > 0 else 1.0
    return (
        np.array(right)
        - (1 - share) * np.array(base_curve.right[below])
        - share * np.array(base_curve.right[above])
    )


def _signs(gaps: Floats, of_unit: Any) -> tuple[int, int]:
    """Return in how many questions, or families, one side has more right answers, and in how many
    the other."""
    import numpy as np

    sums = np.bincount(of_unit, gaps)
    return int((sums > LEAST_GAP).sum()), int((sums < -LEAST_GAP).sum())


def _interval(
    value: float, drawn: Floats, scale: float, units: int, signs: tuple[int, int]
) -> tuple[float, float]:
    """Return the widened percentile interval, which is that of the signs as well where few
    questions differ."""
    import numpy as np

    tail = NORMAL.cdf(-scale * stats.student_quantile(ALPHA, units - 1))
    low, high = (float(end) for end in np.quantile(drawn, [tail, 1 - tail]))
    if sum(signs) < MIN_DIFFERING:
        by_signs = stats.paired_difference_interval(*signs, units)
        low, high = min(low, by_signs[0]), max(high, by_signs[1])
    return max(-1.0, min(low, value)), min(1.0, max(high, value))


def _p(drawn: Floats, scale: float, units: int) -> float:
    """Return the two-sided p that belongs to the interval: the level at which it ends at 0."""
    beyond = min(float((drawn <= 0).sum()), float((drawn >= 0).sum()))
    tail = (1 + beyond) / (1 + len(drawn))
    return min(1.0, stats.student_p(NORMAL.inv_cdf(min(tail, 0.5)) / scale, units - 1))
