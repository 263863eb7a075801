"""Is a verdict over several tasks of likelihoods true? `python bench/compare/pool_texts_null.py`.

Two runs score the texts of several tasks of unequal size, spread and skewness: those of likelihood_null.py, and real
differences of two quantizations, centred and drawn again. Their true differences are: none anywhere; opposite ones, so
that the weighted mean is 0; one that is the same in all tasks, far from 0, where no interval is widened to it; and the
minimum detectable difference. The verdicts are those of runner-compare --pool. The controls are Student's interval, and
the single tasks, Holm over them. Last, a first pair of equal runs says how many texts would show "as good" within a
margin, and so many are drawn. No finding may have an interval that includes 0.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from likelihood_null import drawn_differences, real_texts
from simulation import Limits, Numbers, Rate, Table, begin

from runner_compare.statistics import (
    ALPHA,
    Decision,
    Finding,
    MarginVerdict,
    PooledLikelihoodTest,
    SignFlipTest,
    decide_comparisons_with_holm,
    ratios,
)
from runner_compare.statistics.pooling import PairedTexts, PoolingWeights
from runner_compare.statistics.stats import compute_student_quantile

NF4, FP4 = "nf4 − none", "fp4 − none"  # real texts


class Task(NamedTuple):
    """How many texts, where their differences come from, and how many times as large they are."""

    n: int
    kind: str
    times: float = 1.0


SETTINGS = {
    "three alike": [Task(100, "skewed")] * 3,
    "two small, real": [Task(50, NF4)] * 2,
    "unequal, real": [Task(50, FP4), Task(200, NF4)],
    "unequal": [Task(50, "lopsided", 3.0), Task(200, "skewed"), Task(800, "normal")],
    "small and large": [Task(50, "lopsided", 5.0), Task(800, "normal")],
}
MARGIN = 0.8  # of the minimum detectable difference, so that more texts are needed than there are
Real = dict[str, tuple[Numbers, Numbers]]
Texts = list[tuple[Numbers, Numbers]]  # differences in nats, and tokens, of each task


def draw(generator: np.random.Generator, tasks: Sequence[Task], real: Real) -> Texts:
    """Draw the texts of two equal runs."""
    texts = []
    for task in tasks:
        differences, tokens = drawn_differences(generator, task.kind, task.n, real)
        texts.append((task.times * differences, tokens))
    return texts


def shares(texts: Texts, weights: PoolingWeights) -> list[float]:
    """Return the weight of each task."""
    tokens = [float(it.sum()) for _, it in texts]
    return [it / sum(tokens) if weights is PoolingWeights.questions else 1 / len(tokens) for it in tokens]


def moved(texts: Texts, shifts: Sequence[float]) -> Texts:
    """Move the differences of each task by so many nats a token."""
    return [(it + shift * tokens, tokens) for (it, tokens), shift in zip(texts, shifts, strict=True)]


def opposite(texts: Texts, weights: PoolingWeights) -> list[float]:
    """Return shifts of the first and the last task whose weighted mean is 0."""
    share = shares(texts, weights)
    size = float(texts[0][0].std() / texts[0][1].mean())
    return [size, *[0.0] * (len(texts) - 2), -size * share[0] / share[-1]]


def verdict(texts: Texts, weights: PoolingWeights, margin: float | None = None) -> Decision:
    """Return what runner-compare --pool says, with --margin if there is one."""
    tasks = [PairedTexts(differences.tolist(), tokens.tolist()) for differences, tokens in texts]
    (decision,) = decide_comparisons_with_holm(
        [PooledLikelihoodTest(tasks, "token", weights)], {} if margin is None else {"log_likelihood": margin}
    )
    return decision


def singles(texts: Texts, finding: Finding) -> bool:
    """Whether any single task shows this finding, Holm over the tasks."""
    effects = decide_comparisons_with_holm(
        [SignFlipTest(differences.tolist(), tokens.tolist(), "token") for differences, tokens in texts]
    )
    return any(it.finding is finding for it in effects)


def by_student(texts: Texts, weights: PoolingWeights, truth: float) -> bool:
    """Whether Student's interval with Welch and Satterthwaite's degrees of freedom misses the
    truth."""
    lists = [(differences.tolist(), tokens.tolist()) for differences, tokens in texts]
    share = shares(texts, weights)
    value = sum(part * ratios.ratio_of_sums(*pair) for part, pair in zip(share, lists, strict=True))
    errors = [
        part * ratios.compute_ratio_standard_error(*pair) for part, pair in zip(share, lists, strict=True)
    ]
    fourth = sum(error**4 / (len(pair[0]) - 1) for error, pair in zip(errors, lists, strict=True))
    error = math.hypot(*errors)
    return abs(value - truth) > compute_student_quantile(ALPHA, max(1, int(error**4 / fourth))) * error


def level(
    generator: np.random.Generator, tasks: Sequence[Task], weights: PoolingWeights, real: Real, pairs: int
) -> tuple[list[Rate], list[Rate], Rate, Rate, float]:
    """Return false rates and missed intervals, Student's misses, odd intervals, and the median
    detectable difference.

    An interval is odd if it includes 0 although there is a finding.
    """
    false, missed, student, odd, detectable = [0, 0], [0, 0], 0, 0, []
    for _ in range(pairs):
        texts = draw(generator, tasks, real)
        equal, opposed = (verdict(texts, weights), verdict(moved(texts, opposite(texts, weights)), weights))
        for number, it in enumerate((equal, opposed)):
            false[number] += it.finding is not Finding.open
            odd += it.finding is not Finding.open and it.low <= 0 <= it.high
        detectable.append(math.inf if equal.detectable is None else equal.detectable)
        far = 10 * (equal.high - equal.low)
        at = verdict(moved(texts, [far] * len(texts)), weights)
        missed[0] += not at.low <= far <= at.high
        there = [far + shift for shift in opposite(texts, weights)]
        at = verdict(moved(texts, there), weights)
        missed[1] += not at.low <= far <= at.high
        student += by_student(texts, weights, 0.0)
    rates = [Rate(it, pairs) for it in false], [Rate(it, pairs) for it in missed]
    return *rates, Rate(student, pairs), Rate(odd, 2 * pairs), statistics.median(detectable)


def power(
    generator: np.random.Generator,
    tasks: Sequence[Task],
    weights: PoolingWeights,
    real: Real,
    pairs: int,
    shift: float,
) -> tuple[Rate, Rate]:
    """Return how often the pooled verdict and any single task find a difference, in alternating
    directions."""
    pooled, single = 0, 0
    for number in range(pairs):
        sign, finding = ((1, Finding.better), (-1, Finding.worse))[number % 2]
        texts = moved(draw(generator, tasks, real), [sign * shift] * len(tasks))
        pooled += verdict(texts, weights).finding is finding
        single += singles(texts, finding)
    return Rate(pooled, pairs), Rate(single, pairs)


def planned(
    generator: np.random.Generator,
    tasks: Sequence[Task],
    weights: PoolingWeights,
    real: Real,
    pairs: int,
    margin: float,
) -> tuple[float, Rate | None]:
    """Return how many times as many texts equal runs plan for (the median), and how often these
    decide.

    Pairs of runs whose texts say too little to plan from are left out; None if they are most of
    them.
    """
    had, growth, decided = sum(task.n for task in tasks), list[float](), 0
    for _ in range(pairs):
        first = verdict(draw(generator, tasks, real), weights)
        if not first.can_plan:
            continue
        needed = first.test.plan_sample_size_for_margin(margin, ALPHA)
        assert needed is not None
        growth.append(needed / had)
        larger = [task._replace(n=max(2, math.ceil(task.n * needed / had))) for task in tasks]
        it = verdict(draw(generator, larger, real), weights, margin)
        decided += it.verdict in (MarginVerdict.as_good, MarginVerdict.better)
    if 2 * len(growth) < pairs:
        return 0.0, None
    return statistics.median(growth), Rate(decided, len(growth))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded, or a finding has an interval that includes
    0."""
    (pairs, generator, started), limits = begin("pool_texts_null", __doc__, pairs=200), Limits()
    real, odd = real_texts(), 0
    heads = (
        "equal: false %",
        "opposite: false %",
        "interval misses %",
        "misses, opposite %",
        "Student's misses %",
    )
    more_heads = "nats/token", "found %", "any single", "times as many", "as good %"
    table = Table(f"{pairs:,} pairs of runs a line", f"{'tasks':15}", "weights", *heads, *more_heads)
    for name, tasks in SETTINGS.items():
        for weights in PoolingWeights:
            false, misses, student, unlike, least = level(generator, tasks, weights, real, pairs)
            found, single = power(generator, tasks, weights, real, pairs, least)
            growth, shown = planned(generator, tasks, weights, real, pairs, MARGIN * least)
            cells = f"{least:.5f}", found, single.plain, f"{growth:.1f}", shown or "no plan"
            table.row(name, weights, *false, *misses, student, *cells)
            limits.false += false
            limits.missed += misses
            limits.powers += [found, shown] if shown else [found]
            odd += unlike.times
    print(f"\nfindings with an interval that includes 0: {odd}")
    return limits.conclude(started) or int(odd > 0)


if __name__ == "__main__":
    sys.exit(main())
