"""Does the interval of a recovery hold? `python bench/compare/recovery_null.py`.

Two runs answer the same questions with known accuracies and a known disagreement. So their true recovery (accuracy of
the candidate / accuracy of the baseline) is known. Questions are independent, or in clusters of which some lose much.
Three tasks of unequal size and base rate are pooled, also where they share their clusters. Each side may have several
seeds. There are three controls: the interval of a ratio of two independent accuracies, which ignores that the questions
are the same; the interval that ignores clusters; and the interval that ignores seeds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

import numpy as np
from simulation import MISSES, NORMAL, Limits, Rate, Table, begin

from runner_compare.statistics.pooling import PoolingWeights
from runner_compare.statistics.recovery import PairedAccuracies, compute_recovery

QUESTIONS = (100, 500)
# the baseline's accuracy, the true recovery and the disagreement
PAIRS = (
    (0.3, 1.0, 0.04),
    (0.3, 0.9, 0.06),
    (0.85, 1.0, 0.04),
    (0.85, 0.98, 0.02),
    (0.85, 0.9, 0.15),
    (0.98, 0.98, 0.03),
)
TASKS = ((1319, 0.85, 0.98, 0.06), (500, 0.55, 0.93, 0.12), (200, 0.3, 1.03, 0.08))
CLUSTERS, IN_CLUSTER = (18, 40, 100), 20
HARMED = 0.2  # of the clusters lose, all others do not
LOSS = 0.25  # of the solved questions of a harmed cluster
SEEDS, SEED_SPREAD = 3, 0.03
Z = NORMAL.inv_cdf(0.975)

Interval = tuple[float, float]
Draw = tuple[list[PairedAccuracies], PoolingWeights]


class Missed(NamedTuple):
    """How many intervals are above or below the truth, and their mean width."""

    rate: Rate
    width: float


def paired(
    generator: np.random.Generator, n: int, accuracy: float, recovery: float, disagree: float
) -> PairedAccuracies:
    """Draw independent questions."""
    loss = (disagree + accuracy * (1 - recovery)) / 2
    win = disagree - loss
    assert min(loss, win, accuracy - loss, 1 - accuracy - win) >= -1e-12
    kinds = generator.random(n)
    baseline = kinds < accuracy
    candidate = np.where(baseline, kinds >= loss, kinds >= 1 - win)
    return PairedAccuracies(candidate.astype(float).tolist(), baseline.astype(float).tolist())


def clustered(
    generator: np.random.Generator, clusters: int, harmed: np.ndarray, accuracy: float
) -> PairedAccuracies:
    """Draw questions in clusters: the baseline's accuracy varies between them, and some of them lose."""
    base_rates = generator.beta(8 * accuracy, 8 * (1 - accuracy), clusters).repeat(IN_CLUSTER)
    baseline = generator.random(len(base_rates)) < base_rates
    lost = generator.random(len(base_rates)) < LOSS * harmed.repeat(IN_CLUSTER)
    candidate = baseline & ~lost
    names = np.arange(clusters).repeat(IN_CLUSTER).tolist()
    return PairedAccuracies(candidate.astype(float).tolist(), baseline.astype(float).tolist(), names)


def unpaired(tasks: Sequence[PairedAccuracies]) -> Interval:
    """Return the interval of a ratio of two independent mean accuracies: the control."""
    means, variances = [], []
    for sides in ([task.candidate for task in tasks], [task.baseline for task in tasks]):
        mean = fmean(map(fmean, sides))
        variance = sum(fmean(side) * (1 - fmean(side)) / len(side) for side in sides) / len(sides) ** 2
        means.append(mean)
        variances.append(variance / mean**2)
    half = Z * math.sqrt(sum(variances))
    return means[0] / means[1] * math.exp(-half), means[0] / means[1] * math.exp(half)


def own(tasks: Sequence[PairedAccuracies], weights: PoolingWeights = PoolingWeights.tasks) -> Interval:
    """Return the interval of the product."""
    recovery = compute_recovery(tasks, weights)
    assert recovery is not None
    return recovery.low, recovery.high


def without_clusters(tasks: Sequence[PairedAccuracies]) -> Interval:
    """Return the interval that takes each question as a cluster: the second control."""
    return own([PairedAccuracies(task.candidate, task.baseline) for task in tasks])


def missed(intervals: Sequence[Interval], truth: float) -> Missed:
    """Count the intervals that do not contain the truth."""
    wrong = sum(not low <= truth <= high for low, high in intervals)
    return Missed(Rate(wrong, len(intervals)), fmean(min(high, 9.0) - low for low, high in intervals))


def line(
    table: Table,
    limits: Limits,
    name: Sequence[object],
    truth: float,
    draws: Sequence[Sequence[PairedAccuracies]],
    control: Callable[[Sequence[PairedAccuracies]], Interval] = unpaired,
    compute: Callable[[Sequence[PairedAccuracies]], Interval] = own,
) -> None:
    """Print how often the product's interval and the control miss the truth, and how wide they are."""
    product, other = missed([*map(compute, draws)], truth), missed([*map(control, draws)], truth)
    limits.missed.append(product.rate)
    table.row(*name, product.rate, other.rate, f"{100 * product.width:.1f}", f"{100 * other.width:.1f}")


WIDTHS = "width", "control's"


def independent(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates for independent questions of one task."""
    heads = "n", "baseline", "recovery", "disagree", "missed %", "control: unpaired %", *WIDTHS
    table = Table(f"independent questions: {pairs:,} pairs of runs a line", *heads)
    for n in QUESTIONS:
        for accuracy, recovery, disagree in PAIRS:
            draws = [[paired(generator, n, accuracy, recovery, disagree)] for _ in range(pairs)]
            name = n, f"{accuracy:.0%}", f"{recovery:.0%}", f"{disagree:.0%}"
            line(table, limits, name, recovery, draws)


def in_clusters(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates for questions in clusters."""
    heads = "clusters", "lose", "recovery", "missed %", "control: independent %", *WIDTHS
    table = Table(
        f"clusters of {IN_CLUSTER} questions, some of which lose {LOSS:.0%}: {pairs:,} pairs a line", *heads
    )
    for clusters in CLUSTERS:
        for share in (0.0, HARMED, 0.5):
            draws = [
                [clustered(generator, clusters, generator.random(clusters) < share, 0.8)]
                for _ in range(pairs)
            ]
            truth = 1 - share * LOSS
            line(table, limits, (clusters, f"{share:.0%}", f"{truth:.1%}"), truth, draws, without_clusters)


def pooled(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates for the ratio of mean accuracies over several tasks."""
    heads = "clusters", "weights  ", "recovery", "missed %", "control: unpaired, or independent %", *WIDTHS
    table = Table(f"{len(TASKS)} tasks: {pairs:,} pairs a line", *heads)
    draws = [[paired(generator, *task) for task in TASKS] for _ in range(pairs)]
    for weights in PoolingWeights:
        sizes = [1 if weights is PoolingWeights.tasks else n for n, *_ in TASKS]
        top, bottom = (
            sum(size * rate for size, rate in zip(sizes, rates, strict=True))
            for rates in ([p * r for _, p, r, _ in TASKS], [p for _, p, *_ in TASKS])
        )
        line(
            table, limits, ("none", weights, f"{top / bottom:.1%}"), top / bottom, draws,
            compute=partial(own, weights=weights),
        )  # fmt: skip
    for clusters in CLUSTERS:
        of_clusters = []
        for _ in range(pairs):
            harmed = generator.random(clusters) < HARMED
            of_clusters.append(
                [clustered(generator, clusters, harmed, accuracy) for accuracy in (0.9, 0.6, 0.4)]
            )
        truth = 1 - HARMED * LOSS
        name = f"{clusters} shared", PoolingWeights.tasks, f"{truth:.1%}"
        line(table, limits, name, truth, of_clusters, without_clusters)


def over_seeds(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates where each side has several seeds that vary."""
    table = Table(
        f"{SEEDS} seeds a side, whose accuracy varies by {SEED_SPREAD:.0%}: {pairs:,} pairs a line",
        *("n", "recovery", "missed %", "control: questions alone %", *WIDTHS),
    )
    for n in (100, 500):
        draws = []
        for _ in range(pairs):
            hard = generator.normal(size=n)
            sides = []
            for accuracy in (0.72, 0.8):
                rates = np.clip(accuracy + SEED_SPREAD * generator.uniform(-1.73, 1.73, SEEDS), 0, 1)
                bars = np.array([NORMAL.inv_cdf(rate) for rate in rates])[:, None]
                sides.append(
                    math.sqrt(0.7) * hard + math.sqrt(0.3) * generator.normal(size=(SEEDS, n)) < bars
                )
            means = [side.mean(axis=0).tolist() for side in sides]
            seeds = [side.mean(axis=1).tolist() for side in sides]
            draws.append(
                [
                    PairedAccuracies(
                        means[0], means[1], answers=SEEDS, candidate_seeds=seeds[0], baseline_seeds=seeds[1]
                    )
                ]
            )
        line(table, limits, (n, "90%"), 0.9, draws, without_clusters)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("recovery_null", __doc__, pairs=1000), Limits()
    print(f"an interval may miss the truth in {MISSES:.0%}; rates with 95 % intervals, widths in points")
    for part in (independent, in_clusters, pooled, over_seeds):
        part(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
