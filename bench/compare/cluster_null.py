"""How often is a comparison of families of questions wrong? `python bench/compare/cluster_null.py`.

Questions come in families (twins, or questions about one text) of equal or unequal size. Whether a run solves a
question depends on its family, on how well this run does with the family, on the question, and on chance. First both
runs are equally good; then one is better by a known number of points: how often does the interval miss it, and how
often is the run called as good within exactly that margin? The last columns treat the same questions as independent.

Then few families have all the losses: each loses nine tenths of its questions with a probability of 0.1, and otherwise
gains a tenth, so that the true difference is 0; exactly so, or each question by chance. The same with questions that
are answered several times. The control is sign flips alone. Families that are rarer than four in n are shown, too, and
do not count: often there is none or one of them. A tenth of fewer than 40 families is rarer. Last, a pair of equal runs
says how many questions would show "as good", and so many are drawn, in more families.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
from simulation import GOOD, NORMAL, Drawn, Limits, Numbers, Rate, Solved, Table, begin

from runner_compare.model.data import NotPaired
from runner_compare.statistics import (
    ALPHA,
    Decision,
    Finding,
    MarginVerdict,
    MeanFlipTest,
    decide_comparisons_with_holm,
    ratios,
)
from runner_compare.ways.verdicts import compare_pair

OF_FAMILY, OF_RUN, OF_QUESTION, CHANCE = 1.0, 0.7, 1.0, 0.7  # standard deviations
SETTINGS = [  # families, questions a family on average, unequal, accuracy, gap in points
    (5, 10, False, 0.7, 0.1),
    (10, 10, False, 0.7, 0.1),
    (10, 10, True, 0.5, 0.1),
    (15, 10, True, 0.9, 0.05),
    (20, 10, False, 0.7, 0.1),
    (20, 10, True, 0.97, 0.03),
    (20, 40, True, 0.9, 0.05),
    (50, 5, True, 0.95, 0.05),
    (100, 3, True, 0.7, 0.1),
]
SKEWED = (6, 10, 20, 40, 59, 60, 100)  # families of ten, of which a tenth has all the losses
# questions, answers to each
ANSWERED = ((20, 4), (20, 16), (50, 4), (50, 16), (100, 4), (100, 16), (200, 4))
LOST = 0.1  # the share that is lost
ENOUGH = 4  # families of a kind, among n, to be counted
# families that lose all; and what differs by chance
RARE, RARE_AMONG, NOISE = (0.02, (20, 59, 60, 100, 200, 300), 0.05)
# no gap
PLANNED = [(80, 10, False, 0.7), (100, 3, False, 0.9), (250, 3, True, 0.7), (300, 5, True, 0.95)]
PLANNED_MARGIN = 0.03
PLANS = 300  # a line at most: each draws thousands of questions

Families = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def answers(
    generator: np.random.Generator, families: int, mean: int, unequal: bool, accuracies: Sequence[float]
) -> tuple[list[Solved], Families]:
    """Draw which questions runs of these accuracies solve, and the family of each question."""
    sizes = np.full(families, mean)
    if unequal:
        sizes = np.maximum(1, generator.lognormal(np.log(mean) - 0.32, 0.8, families).round()).astype(int)
    family = np.repeat(np.arange(families), sizes)
    n, spread = len(family), (OF_FAMILY**2 + OF_RUN**2 + OF_QUESTION**2 + CHANCE**2) ** 0.5
    hard = OF_FAMILY * generator.standard_normal(families)[family] + OF_QUESTION * generator.standard_normal(
        n
    )
    solved = []
    for accuracy in accuracies:
        own = OF_RUN * generator.standard_normal(families)[family] + CHANCE * generator.standard_normal(n)
        solved.append((hard + own) / spread < NORMAL.inv_cdf(accuracy))
    return solved, family


def verdict(
    solved: Sequence[Solved], family: Families | None, margin: float | None = None
) -> Decision | None:
    """Compare the second run with the first; None if there are too few families."""
    reader, names = (Drawn(len(solved[0])), None if family is None else [f"family {it}" for it in family])
    runs = [reader.add(f"run-{number}", line, names) for number, line in enumerate(solved)]
    try:
        compared = compare_pair(runs[1], runs[0], reader)
    except NotPaired:
        return None
    (decision,) = decide_comparisons_with_holm(
        [compared], {} if margin is None else {compared.effect.measure: margin}
    )
    return decision


def wrong(
    differences: Numbers, clusters: Families | None = None, samples: int = 1
) -> tuple[bool, bool, bool]:
    """Whether a true difference of 0 is called one, whether the interval misses it, and what flips
    alone would call."""
    sums = differences if clusters is None else np.bincount(clusters, weights=differences)
    test = MeanFlipTest(
        differences.tolist(), None if clusters is None else clusters.tolist(), "family", samples
    )
    (it,) = decide_comparisons_with_holm([test])
    return (
        it.finding is not Finding.open,
        not it.low <= 0 <= it.high,
        ratios.compute_sign_flip_p_value(sums.tolist()) < ALPHA,
    )


def families_that_lose(
    generator: np.random.Generator, families: int, by_chance: bool
) -> tuple[Numbers, Families]:
    """Draw families of ten questions of which a tenth has all the losses."""
    is_lost = (generator.random(families) < LOST).repeat(10)
    differs = generator.random(len(is_lost)) < 0.1 if by_chance else np.tile(np.arange(10), families) == 0
    return np.where(is_lost, np.where(differs, 0, -1), np.where(differs, 1, 0)), np.arange(families).repeat(
        10
    )


def questions_that_lose(generator: np.random.Generator, questions: int, samples: int) -> Numbers:
    """Draw the mean differences of questions of which a tenth is lost, and the others are always
    right."""
    is_lost = generator.random(questions) < LOST
    return np.where(is_lost, 0.0, 1.0) - generator.binomial(samples, 1 - LOST, questions) / samples


def families_that_lose_all(
    generator: np.random.Generator, families: int, by_chance: bool
) -> tuple[Numbers, Families]:
    """Draw families of ten questions of which very few lose all, and the others gain a little."""
    is_lost = (generator.random(families) < RARE).repeat(10)
    gain, chance = RARE / (1 - RARE), generator.random(len(is_lost))
    others = np.where(chance < NOISE, -1, np.where(chance > 1 - NOISE - gain, 1, 0)) if by_chance else gain
    return np.where(is_lost, -1, others), np.arange(families).repeat(10)


def skewed(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return the rates of false verdicts and of missed truths, where few families lose
    nearly all."""
    heads = "called different %", "interval misses truth %", "different by flips alone %"
    rates: list[Rate] = []

    def show(table: Table, draws: Iterator[tuple[bool, bool, bool]], *cells: object) -> list[Rate]:
        found = [Rate(sum(which), pairs) for which in zip(*draws, strict=True)]
        table.row(*cells, *found)
        return found[:2]

    table = Table(f"a tenth has all the losses: {pairs:,} equal pairs a line", "families", "losses  ", *heads)
    for families in SKEWED:
        for by_chance in (False, True):
            drawn = (families_that_lose(generator, families, by_chance) for _ in range(pairs))
            shown = show(table, (wrong(*it) for it in drawn), families, "by chance" if by_chance else "exact")
            rates += shown * (LOST * families >= ENOUGH)
    table = Table("the same of questions", "questions", "answers each", *heads)
    for questions, samples in ANSWERED:
        means = (questions_that_lose(generator, questions, samples) for _ in range(pairs))
        shown = show(table, (wrong(it, None, samples) for it in means), questions, samples)
        rates += shown * (LOST * questions >= ENOUGH)
    title = f"{RARE:.0%} of the families lose all (not counted): {pairs:,} equal pairs a line"
    table = Table(title, "families", "with such ones", "losses  ", *heads)
    for families in RARE_AMONG:
        seen = f"{1 - (1 - RARE) ** families:.0%}"
        for by_chance in (False, True):
            drawn = (families_that_lose_all(generator, families, by_chance) for _ in range(pairs))
            show(table, (wrong(*it) for it in drawn), families, seen, "by chance" if by_chance else "exact")
    return rates


def planned(
    generator: np.random.Generator, families: int, mean: int, unequal: bool, accuracy: float, margin: float
) -> tuple[float, bool] | None:
    """Return how many times as many families a pair of equal runs plans for, and whether so many
    decide.

    None if the product names no number: now and then one family has a tenth of all questions.
    """
    solved, family = answers(generator, families, mean, unequal, [accuracy, accuracy])
    first = verdict(solved, family)
    assert first is not None
    if not first.can_plan:
        return None
    needed = first.test.plan_sample_size_for_margin(margin, ALPHA)
    assert needed is not None
    times = needed / len(family)
    it = verdict(
        *answers(generator, max(6, round(families * times)), mean, unequal, [accuracy, accuracy]), margin
    )
    return times, it is not None and it.verdict in {MarginVerdict.as_good, MarginVerdict.better}


def compared(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of equal runs and of true differences, by families and as independent
    questions."""
    heads = (
        "families",
        "size      ",
        "accuracy",
        "verdicts",
        "called different %",
        "interval misses truth %",
    )
    table = Table(
        f"{pairs:,} pairs a line and side", *heads, "as good at the margin %", "independent", "misses"
    )
    for families, mean, unequal, accuracy, gap in SETTINGS:
        counts = [0] * 6
        for _ in range(pairs):
            solved, family = answers(generator, families, mean, unequal, [accuracy, accuracy])
            plain, it = verdict(solved, None), verdict(solved, family)
            counts[0] += it is not None
            counts[1] += it is not None and it.finding is not Finding.open
            counts[4] += plain is not None and plain.finding is not Finding.open
            apart = [accuracy + gap / 2, accuracy - gap / 2]
            solved, family = answers(generator, families, mean, unequal, apart)
            truth = NORMAL.cdf(NORMAL.inv_cdf(apart[1])) - NORMAL.cdf(NORMAL.inv_cdf(apart[0]))
            plain, it = verdict(solved, None), verdict(solved, family, gap)
            counts[2] += it is not None and not it.low <= truth <= it.high
            counts[3] += it is not None and it.verdict in GOOD
            counts[5] += plain is not None and not plain.low <= truth <= plain.high
        verdicts, different, missed, good, plainly, plainly_missed = (Rate(times, pairs) for times in counts)
        size = f"{mean}{' unequal' * unequal}"
        cells = verdicts.plain, different, missed, good, plainly.plain, plainly_missed.plain
        table.row(families, size, accuracy, *cells)
        limits.false += [different, good]
        limits.missed.append(missed)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("cluster_null", __doc__, 300), Limits()
    compared(generator, pairs, limits)
    limits.false += skewed(generator, pairs)
    count = min(pairs, PLANS)
    heads = "families", "size      ", "accuracy", "with a plan", "times as many", "as good %"
    title = (
        f"planned from a first pair of equal runs, {100 * PLANNED_MARGIN:g} points: {count:,} pairs a line"
    )
    table = Table(title, *heads)
    for families, mean, unequal, accuracy in PLANNED:
        all_plans = [
            planned(generator, families, mean, unequal, accuracy, PLANNED_MARGIN) for _ in range(count)
        ]
        plans = [it for it in all_plans if it is not None]
        limits.powers.append(Rate(sum(is_decided for _, is_decided in plans), len(plans)))
        size, times = f"{mean}{' unequal' * unequal}", median(times for times, _ in plans)
        table.row(families, size, accuracy, len(plans), f"{times:.1f}", limits.powers[-1])
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
