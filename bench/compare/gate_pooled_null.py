"""What does a pooled rule of a gate say? `python bench/compare/gate_pooled_null.py [--pairs 1000]`.

A battery asks five tasks: two without clusters, three with clusters of questions whose answers change
together. The verdict is that of `pool: true`: a test of all questions, and one of each task that counts only
if it shows a loss. The truth is known: no loss; a loss of the margin in the mean, in all tasks alike or in
one task; a loss in one task beyond the margin, and none in the others. Stated: a *NO-GO* without a loss beyond
the margin in the mean or in a task: at most 5 %. A *GO* with a loss of the margin in the mean: at most 2.5 %.
The control ignores the clusters.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from gate_nights_null import NOBODY
from simulation import Limits, Rate, Table, begin

from runner_compare.release_gate.compute import check_loss_within_margin
from runner_compare.release_gate.verdicts import Check, GateVerdict, find_worst_verdict
from runner_compare.statistics import MeanFlipTest, decide_comparisons_with_holm
from runner_compare.statistics.methods.pooled_means import pool_tests_over_tasks

MARGIN = 0.03
DISAGREE = 0.08  # the share of questions on which two equal models disagree


class Task(NamedTuple):
    """Questions of a task, and the questions of each cluster."""

    n: int
    cluster: int


TASKS = [Task(20, 1), Task(175, 1), Task(180, 6), Task(176, 4), Task(175, 7)]  # conf/battery.yaml, margin 3
TOTAL = sum(task.n for task in TASKS)
TOGETHER = 0.4  # probability that a question changes as the others of its cluster do
# the name of the truth, the loss in each task, whether a NO-GO and whether a GO would be wrong
ALONE = MARGIN * TOTAL / TASKS[3].n
SETTINGS = [
    ("no loss", [0.0] * 5, True, False),
    ("the margin in each task", [MARGIN] * 5, True, True),
    ("the margin by one task", [0.0, 0.0, 0.0, ALONE, 0.0], False, True),
    ("20 points in one task", [0.0, 0.2, 0.0, 0.0, 0.0], False, True),
]


@dataclass
class Counts:
    """Number of gates with each verdict."""

    go: int = 0
    no_go: int = 0
    go_without_clusters: int = 0


def draw_task(generator: np.random.Generator, task: Task, loss: float, number: int) -> MeanFlipTest:
    """Draw the differences of a task's questions. With probability TOGETHER, a question has the
    difference of its cluster.
    """
    rate = max(DISAGREE, loss)
    chances = [(rate - loss) / 2, (rate + loss) / 2, 1 - rate]
    clusters = np.arange(task.n) // task.cluster
    of_cluster = generator.choice([1.0, -1.0, 0.0], size=clusters[-1] + 1, p=chances)
    alone = generator.choice([1.0, -1.0, 0.0], size=task.n, p=chances)
    joins = generator.random(task.n) < TOGETHER
    values = np.where(joins, of_cluster[clusters], alone).tolist()
    named = None if task.cluster == 1 else clusters.tolist()
    return MeanFlipTest(values, named, f"field {number}" if named else "")


def decide(tests: list[MeanFlipTest]) -> GateVerdict:
    """Return the verdict of a pooled rule on one candidate."""
    checks: list[Check] = []
    for test, share in [
        (pool_tests_over_tasks(tests), 1 / 2),
        *((test, 1 / (2 * len(tests))) for test in tests),
    ]:
        (decision,) = decide_comparisons_with_holm([test], {"accuracy": MARGIN})
        check = check_loss_within_margin(decision, NOBODY, "", share)
        checks.append(replace(check, is_detail=bool(checks)))
    return find_worst_verdict([check.verdict for check in checks if check.is_decisive])


def simulate(generator: np.random.Generator, pairs: int, losses: list[float]) -> Counts:
    counts = Counts()
    for _ in range(pairs):
        tests = [
            draw_task(generator, task, loss, number)
            for number, (task, loss) in enumerate(zip(TASKS, losses, strict=True))
        ]
        verdict = decide(tests)
        counts.go += verdict is GateVerdict.go
        counts.no_go += verdict is GateVerdict.no_go
        single = [MeanFlipTest(test.differences) for test in tests]
        counts.go_without_clusters += decide(single) is GateVerdict.go
    return counts


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("gate_pooled_null", __doc__, pairs=1000), Limits()
    table = Table(
        f"five tasks, {TOTAL} questions, margin {100 * MARGIN:g} points: {pairs:,} gates a line",
        *(f"{'true loss':23}", "GO %", "NO-GO %", "GO % without clusters"),
    )
    for name, losses, is_no_go_false, is_go_false in SETTINGS:
        counts = simulate(generator, pairs, losses)
        go, no_go = Rate(counts.go, pairs), Rate(counts.no_go, pairs)
        if is_no_go_false:
            limits.false.append(no_go)
        if is_go_false:
            limits.gates.append(go)
        table.row(name, go, no_go, Rate(counts.go_without_clusters, pairs))
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
