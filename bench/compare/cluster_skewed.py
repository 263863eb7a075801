"""Do few clusters keep their level? `python bench/compare/cluster_skewed.py`.

The true difference of a cluster is drawn: normal, exponential, lognormal, or of two kinds of which one is lost.
Clusters are equal, unequal, or one has a third of all questions. The mean difference is 0 first: how often are equal
runs called different? Then it is minus the margin: how often is the run called as good within the margin? Two kinds of
lines are shown, and do not count: kinds rarer than four in n (often none of the clusters, or one, is of such a kind),
also among unequal clusters, and runs that lose nothing by chance. Last, a loss is there: how often is it found? The
controls are Student's t over clusters, and the test before 29 November 2026, which excluded a kind of cluster that
loses everything.

All pairs of a line are tested together, in arrays. The first ones are tested again as the product does it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner_compare.statistics import ALPHA
from runner_compare.statistics.empirical_likelihood import (
    compute_empirical_likelihood_p_values,
    find_smallest_nonzero_gaps,
)
from runner_compare.statistics.paired_means import MeanDifference, compute_mean_p_values
from runner_compare.statistics.ratios import compute_sign_flip_p_value

CLUSTERS = (8, 12, 18, 30, 59, 100)
SIZES = ("equal", "unequal", "one large")
SPREAD = 0.8  # of the logarithms of unequal sizes
MEAN_SIZE, LARGER_SIZE = 20, 28  # questions of a cluster; where a loss is to be found
NOISES = (0.0, 0.03)  # the share of questions that either run loses by chance
MARGIN, LOSS = 0.05, 0.1
ENOUGH = 4  # clusters of a kind, among as many as all are worth, to be counted
GATE_LEVEL = 0.025  # of what is called as good at the margin
GATE_HIGH = 0.04  # which the interval of such a rate may reach
# pairs of a line that are tested again one by one, unless p is so near to the level
CHECKED, NEAR = (5, 0.02)
DRAWN_FLIPS = 999  # of the clusters' signs: enough for the level

Effects = Callable[[np.random.Generator, tuple[int, int]], Numbers]


def exponential(scale: float) -> Effects:
    """Most clusters gain a little, and some lose much; 0 on average."""
    return lambda generator, shape: scale * (1 - generator.exponential(1, shape))


def lognormal(scale: float) -> Effects:
    """The same with a longer tail."""
    return lambda generator, shape: scale * (np.exp(0.5) - generator.lognormal(0, 1, shape))


def normal(scale: float) -> Effects:
    """As many gain as lose."""
    return lambda generator, shape: scale * generator.standard_normal(shape)


def kinds(share: float, lost: float) -> Effects:
    """A share of the clusters loses much, and the others gain a little; 0 on average."""
    gain = share * lost / (1 - share)
    return lambda generator, shape: np.where(generator.random(shape) < share, -lost, gain)


def draw_sizes(
    generator: np.random.Generator, shape: tuple[int, int], how: str, mean: int = MEAN_SIZE
) -> Numbers:
    """Draw how many questions each cluster has."""
    if how == "unequal":
        middle = np.log(mean) - SPREAD**2 / 2
        return np.maximum(1, generator.lognormal(middle, SPREAD, shape).round())
    sizes = np.full(shape, float(mean))
    if how == "one large":
        sizes[:, 0] = mean * shape[1] // 3
    return sizes


def draw_sums(generator: np.random.Generator, effects: Numbers, sizes: Numbers, noise: float) -> Numbers:
    """Draw the sum of the differences in each cluster: questions won minus questions lost."""
    each = np.clip(effects, -0.95, 0.95)
    lost_share = np.minimum(1.0, noise + np.maximum(0, -each))
    won_share = np.minimum(1 - lost_share, noise + np.maximum(0, each))
    lost = generator.binomial(sizes.astype(int), lost_share)
    rest = np.where(lost_share < 1, won_share / np.maximum(1e-12, 1 - lost_share), 0.0)
    won = generator.binomial(sizes.astype(int) - lost, np.clip(rest, 0, 1))
    sums: Numbers = (won - lost).astype(float)
    return sums


def p_values(sums: Numbers, sizes: Numbers, difference: float) -> Numbers:
    """Return the p of each pair against a true difference, as the product has it."""
    ps: Numbers = compute_mean_p_values(sums, sizes, difference)
    if difference == 0:
        ps = with_flips(ps, sums)
    for own_sums, own_sizes, p in list(zip(sums, sizes, ps, strict=True))[:CHECKED]:
        alone = product_p(own_sums, own_sizes, difference)
        assert (alone < ALPHA) == (p < ALPHA) or abs(alone - ALPHA) < NEAR, (alone, p)
    return ps


def with_flips(ps: Numbers, sums: Numbers) -> Numbers:
    """Return p of pairs that flips of the clusters' signs decide, too: of those below the level."""
    rows = np.flatnonzero(ps < ALPHA)
    ps = ps.copy()
    ps[rows] = [
        max(p, compute_sign_flip_p_value(own, DRAWN_FLIPS))
        for p, own in zip(ps[rows], sums[rows].tolist(), strict=True)
    ]
    return ps


def product_p(sums: Numbers, sizes: Numbers, difference: float) -> float:
    """Return the p of one pair, from the difference of each question."""
    differences: list[float] = []
    for total, size in zip(sums, sizes, strict=True):
        differences += [float(np.sign(total))] * int(abs(total)) + [0.0] * int(size - abs(total))
    clusters = np.repeat(np.arange(len(sizes)), sizes.astype(int)).tolist()
    return MeanDifference.from_differences(differences, clusters).compute_p_value_against(difference)


def controls(sums: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers]:
    """Return the p of Student's t over clusters, and of the test before 29 November 2026."""
    from scipy.special import stdtr

    count, total = sums.shape[1], sizes.sum(axis=1)
    mean = sums.sum(axis=1) / total
    squares = ((sums - mean[:, None] * sizes) ** 2).sum(axis=1)
    error = np.sqrt(count / (count - 1) * squares) / total
    t = np.abs(mean) / np.where(error > 0, error, 1.0)
    by_student = np.where(error > 0, 2 * stdtr(count - 1, -t), np.where(mean == 0, 1.0, 0.0))
    before = np.maximum(
        by_student, compute_empirical_likelihood_p_values(sums, sizes, 0.0, find_smallest_nonzero_gaps(sums))
    )
    return by_student, with_flips(before, sums)


@dataclass(frozen=True)
class Line:
    """A truth."""

    clusters: int
    how: str  # the sizes
    name: str
    effects: Effects
    noise: float
    counts: bool = True

    def draw(
        self, generator: np.random.Generator, pairs: int, shift: float, mean: int = MEAN_SIZE
    ) -> tuple[Numbers, Numbers]:
        """Draw the sums and the sizes of the clusters of so many pairs."""
        shape = pairs, self.clusters
        sizes = draw_sizes(generator, shape, self.how, mean)
        return draw_sums(generator, self.effects(generator, shape) + shift, sizes, self.noise), sizes

    @property
    def cells(self) -> tuple[object, ...]:
        """What names it in a table."""
        return self.clusters, self.how, self.name, f"{self.noise:.0%}"


def clusters_worth(clusters: int, how: str) -> float:
    """Return how many clusters of equal size the clusters are worth."""
    return clusters / np.exp(SPREAD**2) if how == "unequal" else clusters


def truths() -> list[Line]:
    """Return the truths of equal pairs, and of pairs at the margin."""
    lines: list[Line] = []
    usual = {"normal": normal(0.1), "exponential": exponential(0.1), "lognormal": lognormal(0.04)}
    for clusters in CLUSTERS:
        for noise in NOISES:
            lines += [
                Line(clusters, how, name, effects, noise, counts=noise > 0)
                for name, effects in usual.items()
                for how in SIZES
            ]
        for among in (2, ENOUGH):
            for how in SIZES[:2]:
                share = among / clusters_worth(clusters, how)
                lines += [
                    Line(
                        clusters,
                        how,
                        f"{among} in n lose {lost:.0%}",
                        kinds(share, lost),
                        NOISES[1],
                        among >= ENOUGH and how == "equal",
                    )
                    for lost in (0.3, 0.9)
                    if share * lost / (1 - share) <= 1
                ]
    return lines


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("cluster_skewed", __doc__, 2000), Limits()
    heads = "clusters", "sizes    ", "differences    ", "noise"
    verdicts = ("called different %", "by Student's t", "as before", "as good at the margin %")
    table = Table(
        f"equal on average, and worse by just {100 * MARGIN:g} points: {pairs:,} pairs a line",
        *heads,
        *verdicts,
    )
    at_margin: list[Rate] = []
    for line in truths():
        sums, sizes = line.draw(generator, pairs, 0.0)
        ps = p_values(sums, sizes, 0.0), *controls(sums, sizes)
        false, by_student, before = (Rate(int((p < ALPHA).sum()), pairs) for p in ps)
        sums, sizes = line.draw(generator, pairs, -MARGIN)
        is_above = sums.sum(axis=1) / sizes.sum(axis=1) > -MARGIN
        good = Rate(int((is_above & (p_values(sums, sizes, -MARGIN) < ALPHA)).sum()), pairs)
        table.row(*line.cells, false, by_student.plain, before.plain, good)
        limits.false += [false] * line.counts
        at_margin += [good] * line.counts
    found_heads = "clusters", "sizes    ", "found %", "by Student's t", "as before"
    table = Table(
        f"worse by {100 * LOSS:g} points, {LARGER_SIZE} questions a cluster: {pairs:,} pairs a line",
        *found_heads,
    )
    for clusters in CLUSTERS:
        for how in SIZES:
            line = Line(clusters, how, "normal", normal(0.1), NOISES[1])
            sums, sizes = line.draw(generator, pairs, -LOSS, LARGER_SIZE)
            is_worse = sums.sum(axis=1) < 0
            ps = p_values(sums, sizes, 0.0), *controls(sums, sizes)
            found = [Rate(int((is_worse & (p < ALPHA)).sum()), pairs) for p in ps]
            table.row(clusters, how, found[0], *(rate.plain for rate in found[1:]))
    beyond = [
        sum(rate.low > GATE_LEVEL for rate in at_margin),
        sum(rate.high > GATE_HIGH for rate in at_margin),
    ]
    print(
        f"\ncalled as good at the margin in more than {GATE_LEVEL:.1%} by more than noise: {beyond[0]} of "
        f"{len(at_margin)} rates; with an interval that reaches above {GATE_HIGH:.0%}: {beyond[1]}"
    )
    return max(limits.conclude(started), int(beyond[1] > 0))


if __name__ == "__main__":
    sys.exit(main())
