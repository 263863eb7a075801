"""Is the verdict over several tasks true, and does it see differences that no single task shows?

`python bench/pool_null.py [--pairs 1000] [--seed 0]`. Two runs answer the questions of several tasks of unequal size,
base rate and disagreement. Their true differences are: none anywhere; opposite ones, so that the weighted mean is 0;
minus the margin in the mean, the same in all tasks or all of it in one; and the minimum detectable difference. The
verdicts are those of runner-compare --pool. `interval` is how often the interval holds the true mean. As a control,
the difference with equal weights for tasks is also decided by the summed wins and losses, and its interval is Wald's:
both are wrong. Then equal runs answer as many questions as the verdict says would decide about the margin, each task
in proportion: planned from disagreement that is known, and from a first sample of each pair. The control plans from the
summed disagreement, as if all questions counted the same. The exit code is 1 if a false rate is above 5 %, an interval
holds the truth in less than 94 %, the minimum detectable difference is found in less than 77 %, or a planned power
misses 80 % by more than 3 points, beyond noise.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from compare_null import SLACK, Rate, begin, conclude

from runner.core.effects import Effect, Finding, judge
from runner.core.margins import MarginVerdict, questions_needed
from runner.core.pooling import PairedVerdicts, Weights, mean_difference_interval, pooled_accuracies
from runner.core.stats import ALPHA, POWER, holm, mcnemar_exact

MARGIN, COVERAGE, FAMILY = 0.02, 0.94, 4
KNOWN = 40  # times as many questions as a task has: their disagreement is as good as known
FINEST = 1 << 12  # whole units of the weighted sums: coarser than in the product, and quicker


class Task(NamedTuple):
    """Questions, the share that the baseline solves, and the share that only one of two equal runs solves."""

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


def shares(tasks: Sequence[Task], weights: Weights) -> list[float]:
    """Return the weight of each task."""
    total = sum(task.n for task in tasks)
    return [task.n / total if weights is Weights.questions else 1 / len(tasks) for task in tasks]


def chances(task: Task, difference: float) -> list[float]:
    """Return the chances of a win, a loss and a tie; a difference replaces ties where wins or losses would be < 0."""
    win, loss = (task.disagree + difference) / 2, (task.disagree - difference) / 2
    if min(win, loss) < 0:
        win, loss = max(difference, 0.0), max(-difference, 0.0)
    assert loss <= task.base
    assert win <= 1 - task.base
    return [win, loss, 1 - win - loss]


def on_top(task: Task, difference: float) -> list[float]:
    """Return the chances if the losses come on top of the disagreement, the worst case for the power."""
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
        yield [PairedVerdicts(wins, losses, task.n) for (wins, losses), task in zip(lines, tasks, strict=True)]


mcnemar = lru_cache(maxsize=None)(mcnemar_exact)


def pooled(tasks: Sequence[PairedVerdicts], weights: Weights) -> Effect:
    """Return the product's effect, without plans for more questions or other differences, which take long."""
    effect = pooled_accuracies(tasks, weights, FINEST)
    effect.needs = effect.detects = None
    return effect


def look(drawn: Iterator[list[PairedVerdicts]], weights: Weights, truth: float, margin: bool = False) -> Seen:
    """Count the verdicts on drawn pairs of runs."""
    seen = Seen()
    for tasks in drawn:
        effect = pooled(tasks, weights)
        low, high = effect.low, effect.high
        judge([effect], {"accuracy": MARGIN} if margin else None)
        seen.better += effect.finding is Finding.better
        seen.worse += effect.finding is Finding.worse
        seen.as_good += effect.verdict in {MarginVerdict.as_good, MarginVerdict.worse_but_within, MarginVerdict.better}
        seen.covered += low - 1e-12 <= truth <= high + 1e-12
        ps = holm([mcnemar(one.wins, one.losses) for one in tasks])
        seen.any_single += any(p < ALPHA and one.wins < one.losses for p, one in zip(ps, tasks, strict=True))
        seen.summed += mcnemar(sum(one.wins for one in tasks), sum(one.losses for one in tasks)) < ALPHA
        own = [(one.wins - one.losses) / one.n for one in tasks]
        share = [one.n / effect.n if weights is Weights.questions else 1 / len(tasks) for one in tasks]
        spread = sum(
            weight**2 * ((one.wins + one.losses) / one.n - value**2) / one.n
            for weight, one, value in zip(share, tasks, own, strict=True)
        )
        seen.wald += abs(effect.value - truth) <= 1.96 * math.sqrt(spread) + 1e-12
    return seen


def opposite(tasks: Sequence[Task], weights: Weights) -> Differences:
    """Return differences of opposite sign whose weighted mean is 0: as large as the disagreement of two tasks lets."""
    share = shares(tasks, weights)
    first, last = 0, len(tasks) - 1
    size = 0.8 * min(tasks[first].disagree, tasks[last].disagree * share[last] / share[first])
    return [size, *[0.0] * (last - 1), -size * share[first] / share[last]]


def in_one(tasks: Sequence[Task], weights: Weights, mean: float) -> Differences:
    """Return differences that are all in the task where the weighted mean asks for the smallest one."""
    share = shares(tasks, weights)
    where = max(range(len(tasks)), key=lambda number: share[number] * min(tasks[number].base, 1))
    return [mean / share[where] if number == where else 0.0 for number in range(len(tasks))]


def level(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the rates of false verdicts, and how often intervals hold the truth."""
    nulls, holds = [], []
    print(
        f"\nfalse verdicts and intervals: {pairs:,} pairs of runs a line. Control: summed wins and losses, and Wald's"
    )
    print(
        "tasks            weights    truth           false verdicts        interval holds        control: false  holds"
    )
    for name, tasks in SETTINGS.items():
        for weights in Weights:
            for truth, differences in (("equal", [0.0] * len(tasks)), ("opposite", opposite(tasks, weights))):
                drawn = draw(generator, tasks, list(map(chances, tasks, differences)), pairs)
                seen = look(drawn, weights, 0.0)
                null, hold = Rate(seen.better + seen.worse, pairs), Rate(seen.covered, pairs)
                print(f"{name:15s}  {weights:9s}  {truth:9s}  {null}  {hold}  {100 * seen.summed / pairs:13.1f} %  "
                      f"{100 * seen.wald / pairs:.1f} %", flush=True)  # fmt: skip
                nulls.append(null)
                holds.append(hold)
    return nulls, holds


def at_the_margin(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return how often a mean at minus the margin is called as good."""
    nulls, holds = [], []
    print(f"\ntrue mean = -{100 * MARGIN:g} points, the margin: {pairs:,} pairs of runs a line")
    print("tasks            weights    where             called as good        interval holds")
    for name, tasks in SETTINGS.items():
        for weights in Weights:
            for where, differences in (
                ("everywhere", [-MARGIN] * len(tasks)),
                ("in one", in_one(tasks, weights, -MARGIN)),
            ):
                drawn = draw(generator, tasks, list(map(chances, tasks, differences)), pairs)
                seen = look(drawn, weights, -MARGIN, margin=True)
                null, hold = Rate(seen.as_good, pairs), Rate(seen.covered, pairs)
                print(f"{name:15s}  {weights:9s}  {where:10s}  {null}  {hold}", flush=True)
                nulls.append(null)
                holds.append(hold)
    return nulls, holds


def family(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often any of several equal settings is called different, Holm over the settings."""
    nulls = []
    print(f"\n{FAMILY} equal settings against one baseline, Holm over the settings: {pairs:,} tables a line")
    print("tasks            weights        any false verdict")
    for name, tasks in SETTINGS.items():
        for weights in Weights:
            wrong, equal = 0, [chances(task, 0.0) for task in tasks]
            for settings in zip(*(draw(generator, tasks, equal, pairs) for _ in range(FAMILY)), strict=True):
                effects = [pooled(one, weights) for one in settings]
                judge(effects)
                wrong += any(it.finding is not Finding.open for it in effects)
            nulls.append(Rate(wrong, pairs))
            print(f"{name:15s}  {weights:9s}  {nulls[-1]}", flush=True)
    return nulls


def power(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often the minimum detectable difference is found, and by how many single tasks."""
    powers = []
    print(f"\ntrue loss = the minimum detectable difference, everywhere or in one task: {pairs:,} pairs of runs a line")
    print(
        "tasks            weights    points     everywhere: pooled  any single task     in one: pooled  any single task"
    )
    for name, tasks in SETTINGS.items():
        for weights in Weights:
            typical = [PairedVerdicts(0, round(task.n * task.disagree), task.n) for task in tasks]
            said = pooled_accuracies(typical, weights, FINEST).detects
            gap = said(ALPHA) if said is not None else None
            if gap is None or any(task.base < gap for task in tasks):
                print(f"{name:15s}  {weights:9s}  more than the smallest base rate", flush=True)
                continue
            seen = look(draw(generator, tasks, [on_top(task, -gap) for task in tasks], pairs), weights, -gap)
            everywhere = Rate(seen.worse, pairs)
            words = ""
            differences = in_one(tasks, weights, -gap)
            if all(-value <= task.base - task.disagree / 2 for value, task in zip(differences, tasks, strict=True)):
                one = look(draw(generator, tasks, list(map(on_top, tasks, differences)), pairs), weights, -gap)
                words = f"{100 * one.worse / pairs:13.1f} %  {100 * one.any_single / pairs:13.1f} %"
            print(f"{name:15s}  {weights:9s}  {100 * gap:6.1f}  {everywhere}  {100 * seen.any_single / pairs:13.1f} %  "
                  f"{words}", flush=True)  # fmt: skip
            powers.append(everywhere)
    return powers


def grown(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return the tasks with so many questions in all, in proportion."""
    total = sum(task.n for task in tasks)
    return [task._replace(n=max(1, round(count * task.n / total))) for task in tasks]


def decides(generator: np.random.Generator, tasks: Sequence[Task], margin: float, pairs: int) -> int:
    """Return how many of the pairs of equal runs are shown to be as good in the mean over these tasks."""
    drawn = draw(generator, tasks, [chances(task, 0.0) for task in tasks], pairs)
    return sum(mean_difference_interval(one)[0] > -margin for one in drawn)


@cache
def planned(discordant: tuple[int, ...], ns: tuple[int, ...], margin: float) -> int:
    """Return the planned number of questions over all tasks."""
    tasks = [PairedVerdicts(0, count, n) for count, n in zip(discordant, ns, strict=True)]
    needed = pooled_accuracies(tasks, Weights.tasks, FINEST).needs
    count = needed(margin, ALPHA) if needed is not None else None
    assert count is not None
    return int(count)


def plans(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the power of plans for tasks that count the same, from known disagreement and from a sample."""
    known, sampled = [], []
    print(f"\nas good within a margin, planned for {100 * POWER:.0f} %, tasks count the same: {pairs:,} pairs a line")
    print("tasks            margin  questions   known disagreement    from a first sample        control: from the sum")
    for name, tasks in SETTINGS.items():
        ns = tuple(task.n for task in tasks)
        for margin in (0.02, 0.05):
            exact = tuple(round(KNOWN * task.n * task.disagree) for task in tasks)
            count = planned(exact, tuple(KNOWN * n for n in ns), margin)
            known.append(Rate(decides(generator, grown(tasks, count), margin, pairs), pairs))
            first = [tuple(int(generator.binomial(task.n, task.disagree)) for task in tasks) for _ in range(pairs)]
            hits = sum(decides(generator, grown(tasks, planned(one, ns, margin)), margin, 1) for one in first)
            sampled.append(Rate(hits, pairs))
            by_sum = questions_needed(margin, sum(exact) / (KNOWN * sum(ns)))
            assert by_sum is not None
            control = Rate(decides(generator, grown(tasks, by_sum), margin, pairs), pairs)
            print(f"{name:15s}  {100 * margin:4.0f}  {count:9,d}  {known[-1]}  {sampled[-1]}  {control}",
                  flush=True)  # fmt: skip
    return known, sampled


def main() -> int:
    """Simulate and print; 1 when a promise is broken by more than noise."""
    pairs, generator, started = begin("pool_null", __doc__, pairs=1000)
    nulls, holds = level(generator, pairs)
    more_nulls, more_holds = at_the_margin(generator, pairs)
    nulls += more_nulls + family(generator, pairs // 2)
    holds += more_holds
    powers = power(generator, pairs)
    known, sampled = plans(generator, pairs)
    code = conclude(nulls, started, powers)
    off = [rate for rate in (*known, *sampled) if rate.high < POWER - SLACK]
    off += [rate for rate in known if rate.low > POWER + SLACK]
    print(f"planned powers that miss {100 * POWER:.0f} % by more than 3 points (from a sample: below), beyond noise: "
          f"{len(off)} of {len(known) + len(sampled)}")  # fmt: skip
    short = [rate for rate in holds if rate.high < COVERAGE]
    print(
        f"intervals that hold the truth in less than {100 * COVERAGE:.0f} %, beyond noise: {len(short)} of {len(holds)}"
    )
    return 1 if short or off else code


if __name__ == "__main__":
    sys.exit(main())
