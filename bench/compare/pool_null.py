"""Is a verdict over several tasks true, and does it see what no single task shows? `python bench/compare/pool_null.py`.

Two runs answer the questions of several tasks of unequal size, base rate and disagreement. Their true differences are:
none anywhere; opposite ones, so that the weighted mean is 0; minus the margin in the mean, the same in all tasks or all
of it in one; and the minimum detectable difference. The verdicts are those of runner-compare --pool. As a control, the
difference with equal weights for tasks is also decided by the summed wins and losses, and its interval is Wald's: both
are wrong. Then equal runs answer as many questions as the verdict says would decide about the margin, each task in
proportion: planned from disagreement that is known, and from a first sample of each pair. The control plans from the
summed disagreement, as if all questions counted the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from simulation import GOOD, Limits, Rate, Table, begin

from runner_compare.statistics import (
    ALPHA,
    POWER,
    Finding,
    MeanFlipTest,
    create_pooled_test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.methods.pooled_means import pool_tests_over_tasks
from runner_compare.statistics.pooling import PairedVerdicts, PoolingWeights, compute_mean_difference_interval
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value, holm_adjust

MARGIN, FAMILY = 0.02, 4
KNOWN = 40  # times as many questions as a task has: their disagreement is as good as known
TASKS_OF_TEMPLATES, A_TEMPLATE = 3, 10  # tasks of the same templates; questions of each in a task
TEMPLATES, TEMPLATE_SPREAD, CHANCE = (12, 18, 40), 0.1, 0.03
TEMPLATE_MARGIN = 0.05
FINEST = 1 << 12  # whole units of the weighted sums: coarser than in the product, and quicker


class Task(NamedTuple):
    """Questions, the share that the baseline solves, and the share that only one of two equal runs
    solves."""

    n: int
    base: float
    disagree: float


SETTINGS = {
    "four unequal": [Task(50, 0.95, 0.02), Task(200, 0.7, 0.1), Task(500, 0.3, 0.2), Task(1319, 0.05, 0.05)],
    "three alike": [Task(200, 0.7, 0.1)] * 3,
    "two small": [Task(50, 0.9, 0.05), Task(50, 0.5, 0.4)],
    "small and large": [Task(50, 0.5, 0.4), Task(1319, 0.9, 0.02)],
    "ten": [Task(100, 0.5, 0.2)] * 5 + [Task(300, 0.8, 0.1)] * 5,
}
Differences = Sequence[float]
HEADS = f"{'tasks':15}", "weights"


@dataclass
class Seen:
    """What the verdicts on one setting said."""

    better: int = 0
    worse: int = 0
    as_good: int = 0
    covered: int = 0
    any_single: int = 0  # a single task was shown worse, Holm over the tasks
    summed: int = 0  # control: summed wins and losses decide about equal weights for tasks
    wald: int = 0  # control: Wald's interval holds the truth


def shares(tasks: Sequence[Task], weights: PoolingWeights) -> list[float]:
    total = sum(task.n for task in tasks)
    return [task.n / total if weights is PoolingWeights.questions else 1 / len(tasks) for task in tasks]


def chances(task: Task, difference: float) -> list[float]:
    """Return the chances of a win, a loss and a tie; a difference replaces ties where wins or
    losses would be < 0."""
    win, loss = (task.disagree + difference) / 2, (task.disagree - difference) / 2
    if min(win, loss) < 0:
        win, loss = max(difference, 0.0), max(-difference, 0.0)
    assert loss <= task.base
    assert win <= 1 - task.base
    return [win, loss, 1 - win - loss]


def on_top(task: Task, difference: float) -> list[float]:
    """Return the chances if the losses come on top of the disagreement, the worst case for the
    power."""
    win, loss = task.disagree / 2, task.disagree / 2 - difference
    return [win, loss, 1 - win - loss]


def draw(
    generator: np.random.Generator, tasks: Sequence[Task], chances_of_tasks: Sequence[list[float]], pairs: int
) -> Iterator[list[PairedVerdicts]]:
    """Yield the wins and losses of each task, pair of runs by pair of runs."""
    columns = [
        generator.multinomial(task.n, chance, size=pairs)[:, :2].tolist()
        for task, chance in zip(tasks, chances_of_tasks, strict=True)
    ]
    for lines in zip(*columns, strict=True):
        yield [
            PairedVerdicts(wins, losses, task.n) for (wins, losses), task in zip(lines, tasks, strict=True)
        ]


mcnemar = lru_cache(maxsize=None)(compute_exact_mcnemar_p_value)


def look(
    drawn: Iterator[list[PairedVerdicts]], weights: PoolingWeights, truth: float, margin: bool = False
) -> Seen:
    """Count the verdicts on drawn pairs of runs."""
    seen = Seen()
    for tasks in drawn:
        (effect,) = decide_comparisons_with_holm(
            [create_pooled_test(tasks, weights, FINEST)], {"accuracy": MARGIN} if margin else None
        )
        low, high = effect.low, effect.high
        seen.better += effect.finding is Finding.better
        seen.worse += effect.finding is Finding.worse
        seen.as_good += effect.verdict in GOOD
        seen.covered += low - 1e-12 <= truth <= high + 1e-12
        ps = holm_adjust([mcnemar(one.wins, one.losses) for one in tasks])
        seen.any_single += any(p < ALPHA and one.wins < one.losses for p, one in zip(ps, tasks, strict=True))
        seen.summed += mcnemar(sum(one.wins for one in tasks), sum(one.losses for one in tasks)) < ALPHA
        own = [(one.wins - one.losses) / one.n for one in tasks]
        share = [one.n / effect.n if weights is PoolingWeights.questions else 1 / len(tasks) for one in tasks]
        spread = sum(
            weight**2 * ((one.wins + one.losses) / one.n - value**2) / one.n
            for weight, one, value in zip(share, tasks, own, strict=True)
        )
        seen.wald += abs(effect.value - truth) <= 1.96 * math.sqrt(spread) + 1e-12
    return seen


def opposite(tasks: Sequence[Task], weights: PoolingWeights) -> Differences:
    """Return differences of opposite sign whose weighted mean is 0: as large as the disagreement of
    two tasks lets."""
    share = shares(tasks, weights)
    first, last = 0, len(tasks) - 1
    size = 0.8 * min(tasks[first].disagree, tasks[last].disagree * share[last] / share[first])
    return [size, *[0.0] * (last - 1), -size * share[first] / share[last]]


def in_one(tasks: Sequence[Task], weights: PoolingWeights, mean: float) -> Differences:
    """Return differences that are all in the task where the weighted mean asks for the smallest
    one."""
    share = shares(tasks, weights)
    where = max(range(len(tasks)), key=lambda number: share[number] * min(tasks[number].base, 1))
    return [mean / share[where] if number == where else 0.0 for number in range(len(tasks))]


def level(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of false verdicts, and how often intervals hold the truth."""
    title = f"false verdicts and intervals: {pairs:,} pairs of runs a line. Control: summed wins and losses, and Wald's"
    heads = "truth   ", "false verdicts %", "interval holds %", "control: false", "holds"
    table = Table(title, *HEADS, *heads)
    for (name, tasks), weights in product(SETTINGS.items(), PoolingWeights):
        for truth, differences in (("equal", [0.0] * len(tasks)), ("opposite", opposite(tasks, weights))):
            drawn = draw(generator, tasks, list(map(chances, tasks, differences)), pairs)
            seen = look(drawn, weights, 0.0)
            null, *rest = (
                Rate(it, pairs) for it in (seen.better + seen.worse, seen.covered, seen.summed, seen.wald)
            )
            table.row(name, weights, truth, null, rest[0], rest[1].plain, rest[2].plain)
            limits.false.append(null)
            limits.missed.append(Rate(pairs - seen.covered, pairs))


def at_the_margin(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often a mean at minus the margin is called as good."""
    title = f"true mean = -{100 * MARGIN:g} points, the margin: {pairs:,} pairs of runs a line"
    table = Table(title, *HEADS, "where     ", "called as good %", "interval holds %")
    for (name, tasks), weights in product(SETTINGS.items(), PoolingWeights):
        everywhere, in_single = [-MARGIN] * len(tasks), in_one(tasks, weights, -MARGIN)
        for where, differences in (("everywhere", everywhere), ("in one", in_single)):
            drawn = draw(generator, tasks, list(map(chances, tasks, differences)), pairs)
            seen = look(drawn, weights, -MARGIN, margin=True)
            limits.false.append(Rate(seen.as_good, pairs))
            limits.missed.append(Rate(pairs - seen.covered, pairs))
            table.row(name, weights, where, limits.false[-1], Rate(seen.covered, pairs))


def family(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often any of several equal settings is called different, Holm over the settings."""
    title = f"{FAMILY} equal settings against one baseline, Holm over the settings: {pairs:,} tables a line"
    table = Table(title, *HEADS, "any false verdict %")
    for (name, tasks), weights in product(SETTINGS.items(), PoolingWeights):
        wrong, equal = 0, [chances(task, 0.0) for task in tasks]
        for settings in zip(*(draw(generator, tasks, equal, pairs) for _ in range(FAMILY)), strict=True):
            effects = decide_comparisons_with_holm(
                [create_pooled_test(one, weights, FINEST) for one in settings]
            )
            wrong += any(it.finding is not Finding.open for it in effects)
        limits.false.append(Rate(wrong, pairs))
        table.row(name, weights, limits.false[-1])


def power(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often the minimum detectable difference is found, and by how many single tasks."""
    title = f"true loss = the minimum detectable difference, everywhere or in one task: {pairs:,} pairs of runs a line"
    single = "any single task"
    table = Table(title, *HEADS, "points", "everywhere: pooled %", single, "in one: pooled", single)
    for (name, tasks), weights in product(SETTINGS.items(), PoolingWeights):
        typical = [PairedVerdicts(0, round(task.n * task.disagree), task.n) for task in tasks]
        gap = create_pooled_test(typical, weights, FINEST).detectable_difference(ALPHA)
        if gap is None or any(task.base < gap for task in tasks):
            table.row(name, weights, "more than the smallest base rate")
            continue
        seen = look(draw(generator, tasks, [on_top(task, -gap) for task in tasks], pairs), weights, -gap)
        limits.powers.append(Rate(seen.worse, pairs))
        cells = [f"{100 * gap:.1f}", limits.powers[-1], Rate(seen.any_single, pairs).plain]
        differences = in_one(tasks, weights, -gap)
        if all(
            -value <= task.base - task.disagree / 2 for value, task in zip(differences, tasks, strict=True)
        ):
            one = look(draw(generator, tasks, list(map(on_top, tasks, differences)), pairs), weights, -gap)
            cells += [Rate(one.worse, pairs).plain, Rate(one.any_single, pairs).plain]
        table.row(name, weights, *cells)


def grown(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return the tasks with so many questions in all, in proportion."""
    total = sum(task.n for task in tasks)
    return [task._replace(n=max(1, round(count * task.n / total))) for task in tasks]


def decides(generator: np.random.Generator, tasks: Sequence[Task], margin: float, pairs: int) -> int:
    """Return how many of the pairs of equal runs are shown to be as good in the mean over these
    tasks."""
    drawn = draw(generator, tasks, [chances(task, 0.0) for task in tasks], pairs)
    return sum(compute_mean_difference_interval(one)[0] > -margin for one in drawn)


@cache
def planned(discordant: tuple[int, ...], ns: tuple[int, ...], margin: float) -> int:
    """Return the planned number of questions over all tasks."""
    tasks = [PairedVerdicts(0, count, n) for count, n in zip(discordant, ns, strict=True)]
    count = create_pooled_test(tasks, PoolingWeights.tasks, FINEST).plan_sample_size_for_margin(margin, ALPHA)
    assert count is not None
    return int(count)


def plans(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the power of plans for tasks that count the same, from known disagreement and from a
    sample."""
    title = f"as good within a margin, planned for {POWER:.0%}, tasks count the same: {pairs:,} pairs a line"
    heads = (
        "margin",
        "questions",
        "known disagreement %",
        "from a first sample %",
        "control: from the sum %",
    )
    table = Table(title, HEADS[0], *heads)
    for (name, tasks), margin in product(SETTINGS.items(), (0.02, 0.05)):
        ns = tuple(task.n for task in tasks)
        exact = tuple(round(KNOWN * task.n * task.disagree) for task in tasks)
        count = planned(exact, tuple(KNOWN * n for n in ns), margin)
        known = Rate(decides(generator, grown(tasks, count), margin, pairs), pairs)
        first = [
            tuple(int(generator.binomial(task.n, task.disagree)) for task in tasks) for _ in range(pairs)
        ]
        hits = sum(decides(generator, grown(tasks, planned(one, ns, margin)), margin, 1) for one in first)
        by_sum = compute_non_inferiority_sample_size(margin, sum(exact) / (KNOWN * sum(ns)))
        assert by_sum is not None
        control = Rate(decides(generator, grown(tasks, by_sum), margin, pairs), pairs)
        limits.planned.append(known)
        limits.powers.append(Rate(hits, pairs))
        table.row(name, f"{margin:.0%}", count, known, limits.powers[-1], control)


def of_templates(
    generator: np.random.Generator, templates: int, mean: float
) -> tuple[list[MeanFlipTest], list[MeanFlipTest]]:
    """Draw the tests of tasks that have the same templates, and the same with clusters of their own."""
    effects = (mean + TEMPLATE_SPREAD * generator.standard_normal(templates)).repeat(A_TEMPLATE)
    names = np.arange(templates).repeat(A_TEMPLATE)
    shared, own = [], []
    for task in range(TASKS_OF_TEMPLATES):
        chance = generator.random(len(effects))
        lost, won = CHANCE + np.maximum(0, -effects), CHANCE + np.maximum(0, effects)
        drawn = np.where(chance < lost, -1.0, np.where(chance > 1 - won, 1.0, 0.0)).tolist()
        shared.append(MeanFlipTest(drawn, names.tolist(), "template"))
        own.append(MeanFlipTest(drawn, (names + task * templates).tolist(), "template"))
    return shared, own


def clusters(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often tasks of the same templates are called different, and as good at the margin."""
    title = f"{TASKS_OF_TEMPLATES} tasks of the same templates: {pairs:,} pairs of runs a line"
    heads = ("templates", "called different %", "own clusters %", "independent %", "as good at the margin %")
    table = Table(title, *heads)
    for templates in TEMPLATES:
        wrong = [0, 0, 0]
        good = 0
        for _ in range(pairs):
            shared, own = of_templates(generator, templates, 0.0)
            values = [value for test in shared for value in test.differences]
            independent = mcnemar(values.count(1.0), values.count(-1.0))
            ps = pool_tests_over_tasks(shared).mean.p, pool_tests_over_tasks(own).mean.p, independent
            wrong = [count + (p < ALPHA) for count, p in zip(wrong, ps, strict=True)]
            pooled = pool_tests_over_tasks(of_templates(generator, templates, -TEMPLATE_MARGIN)[0])
            is_above = pooled.mean.difference > -TEMPLATE_MARGIN
            good += is_above and pooled.compute_p_value(-TEMPLATE_MARGIN) < ALPHA
        rates = [Rate(count, pairs) for count in wrong]
        limits.false.append(rates[0])
        limits.gates.append(Rate(good, pairs))
        table.row(templates, *rates, limits.gates[-1])


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("pool_null", __doc__, pairs=1000), Limits()
    level(generator, pairs, limits)
    at_the_margin(generator, pairs, limits)
    family(generator, pairs // 2, limits)
    power(generator, pairs, limits)
    plans(generator, pairs, limits)
    clusters(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
