"""Do few families keep their level? `python bench/compare/cluster_skewed.py`.

The true difference of a family is drawn: normal, exponential, lognormal, or of two kinds of which one is lost. Families
are equal, unequal, or one has a third of all questions. First the mean difference is 0: how often are equal runs called
different? Then it is just minus the margin: how often is the run called as good within it? Kinds rarer than four in n
are shown, too, and do not count: often none of n families, or one, is of such a kind. Last, a loss is there: how often
is it found? The controls are Student's t over families, and the test as it is where a kind of family that is all lost
may be unseen, which it was for all before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner_compare.statistics import ALPHA
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.ratios import sign_flip_p
from runner_compare.statistics.stats import student_p
from runner_compare.statistics.unseen_kind import likelihood_p

FAMILIES = (8, 12, 18, 30, 59, 100)
SIZES = ("equal", "unequal", "one large")
MEAN_SIZE, NOISE, MARGIN, LOSS = 20, 0.03, 0.05, 0.1
ENOUGH = 4  # families of a kind, among n, to be counted
GATE_LEVEL = 0.025  # of what is called as good at the margin

Effects = Callable[[np.random.Generator, int], Numbers]


def exponential(scale: float) -> Effects:
    """Most families gain a little, and some lose much; 0 on average."""
    return lambda generator, count: scale * (1 - generator.exponential(1, count))


def lognormal(scale: float) -> Effects:
    """The same with a longer tail."""
    return lambda generator, count: scale * (np.exp(0.5) - generator.lognormal(0, 1, count))


def normal(scale: float) -> Effects:
    """As many gain as lose."""
    return lambda generator, count: scale * generator.standard_normal(count)


def kinds(share: float, lost: float) -> Effects:
    """A share of the families loses much, and the others gain a little; 0 on average."""
    gain = share * lost / (1 - share)
    return lambda generator, count: np.where(generator.random(count) < share, -lost, gain)


def sizes_of(generator: np.random.Generator, families: int, how: str) -> Numbers:
    """Draw how many questions each family has."""
    if how == "unequal":
        return np.maximum(1, generator.lognormal(np.log(MEAN_SIZE) - 0.32, 0.8, families).round())
    sizes = np.full(families, float(MEAN_SIZE))
    if how == "one large":
        sizes[0] = MEAN_SIZE * families // 3
    return sizes


def differences(
    generator: np.random.Generator, effects: Numbers, sizes: Numbers
) -> tuple[list[float], list[int]]:
    """Draw the difference of each question, and its family."""
    each = np.repeat(np.clip(effects, -0.95, 0.95), sizes.astype(int))
    chance = generator.random(len(each))
    lost, won = NOISE + np.maximum(0, -each), NOISE + np.maximum(0, each)
    drawn = np.where(chance < lost, -1.0, np.where(chance > 1 - won, 1.0, 0.0))
    return drawn.tolist(), np.repeat(np.arange(len(sizes)), sizes.astype(int)).tolist()


def controls(it: MeanDifference) -> tuple[bool, bool]:
    """Whether Student's t over families finds a difference, and whether the test before did."""
    count = len(it.sums)
    off = [own - it.difference * size for own, size in zip(it.sums, it.sizes, strict=True)]
    error = (count / (count - 1) * sum(value**2 for value in off)) ** 0.5 / it.n
    by_student = student_p(it.difference / error, count - 1) if error else float(not it.difference)
    ps = by_student, likelihood_p(it.sums, it.sizes, 0.0), sign_flip_p(it.sums)
    return by_student < ALPHA, max(ps) < ALPHA


def called(
    generator: np.random.Generator,
    families: int,
    how: str,
    effects: Effects,
    shift: float,
    pairs: int,
    margin: float | None = None,
) -> list[Rate]:
    """Return how often a verdict is found: of a difference (with the controls), or about a
    margin."""
    counts = [0, 0, 0]
    for _ in range(pairs):
        drawn = differences(
            generator, effects(generator, families) + shift, sizes_of(generator, families, how)
        )
        it = MeanDifference.of(*drawn)
        if margin is not None:
            counts[0] += it.difference > -margin and it.p_at(-margin) < ALPHA
            continue
        by_student, before = controls(it)
        counts[0] += it.p < ALPHA and (not shift or it.difference < 0)
        counts[1] += by_student
        counts[2] += before
    return [Rate(times, pairs) for times in counts]


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("cluster_skewed", __doc__, 300), Limits()
    heads = "families", "sizes    ", "differences    "
    false = Table(
        f"equal on average: {pairs:,} pairs a line",
        *heads,
        "called different %",
        "by Student's t",
        "as before",
    )
    lines: list[tuple[int, str, str, Effects, bool]] = []
    for families in FAMILIES:
        drawn = {
            "normal": normal(0.1),
            "exponential": exponential(0.1),
            "lognormal": lognormal(0.04),
        }
        lines += [
            (families, how, name, effects, True) for name, effects in drawn.items() for how in SIZES
        ]
        for among in (2, ENOUGH):
            share = among / families
            lines += [
                (
                    families,
                    "equal",
                    f"{among} in n lose {lost:.0%}",
                    kinds(share, lost),
                    among >= ENOUGH,
                )
                for lost in (0.3, 0.9)
            ]
    for families, how, name, effects, counts in lines:
        rate, by_student, before = called(generator, families, how, effects, 0.0, pairs)
        false.row(families, how, name, rate, by_student.plain, before.plain)
        limits.false += [rate] * counts
    good = Table(
        f"worse by just {100 * MARGIN:g} points on average: {pairs:,} pairs a line",
        *heads,
        "called as good %",
    )
    at_margin = []
    for families, how, name, effects, counts in lines:
        rate, *_ = called(generator, families, how, effects, -MARGIN, pairs, MARGIN)
        good.row(families, how, name, rate)
        at_margin += [rate] * counts
    found = Table(
        f"worse by {100 * LOSS:g} points: {pairs:,} pairs a line",
        *heads,
        "found %",
        "by Student's t",
        "as before",
    )
    for families in FAMILIES:
        for how in SIZES:
            rate, by_student, before = called(generator, families, how, normal(0.1), -LOSS, pairs)
            found.row(families, how, "normal", rate, by_student.plain, before.plain)
    beyond = sum(rate.low > GATE_LEVEL for rate in at_margin)
    print(
        f"\ncalled as good at the margin in more than {GATE_LEVEL:.1%}: {beyond} of {len(at_margin)} rates"
    )
    return max(limits.conclude(started), int(beyond > 0))


if __name__ == "__main__":
    sys.exit(main())
