"""What does a gate with several tests say? `python bench/compare/gate_tasks_null.py [--pairs 2000]`.

A policy has a margin on each of several tasks, and every task has questions of its own. The truth is
known: a loss of exactly the margin in every task, or in one of them. The tests share the error rate of
NO-GO; the control gives each test the whole 5 %. Stated: a *NO-GO* without a loss beyond the margin: at
most 5 %. A *GO* with a loss of the margin in one task: at most 2.5 %.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from gate_nights_null import MARGIN, NOBODY
from simulation import Limits, Rate, Table, begin

from runner_compare.release_gate.compute import check_loss_within_margin
from runner_compare.release_gate.verdicts import GateVerdict, find_worst_verdict
from runner_compare.statistics import McNemarTest, decide_comparisons_with_holm

# the number of tasks and of their questions, the share on which both runs disagree, the tasks with a loss
SETTINGS = [(tasks, n, 0.08, losing) for n in (500, 2000) for tasks in (1, 3, 8) for losing in {1, tasks}]


@cache
def verdict_of(wins: int, losses: int, n: int, share: float) -> GateVerdict:
    """Return the verdict of one task's test at its share of the error rate."""
    (decision,) = decide_comparisons_with_holm([McNemarTest(wins, losses, n)], {"accuracy": MARGIN})
    return check_loss_within_margin(decision, NOBODY, "", share).verdict


def simulate(
    generator: np.random.Generator, pairs: int, tasks: int, n: int, disagree: float, losing: int
) -> tuple[Rate, Rate, Rate]:
    """Return how often the verdict is NO-GO with shared error rates and without, and how often GO."""
    counts = {"shared": 0, "whole": 0, "go": 0}
    for _ in range(pairs):
        losses = [MARGIN] * losing + [0.0] * (tasks - losing)
        tables = [
            generator.multinomial(n, [(disagree - loss) / 2, (disagree + loss) / 2, 1 - disagree])[
                :2
            ].tolist()
            for loss in losses
        ]
        shared = find_worst_verdict([verdict_of(*table, n, 1 / tasks) for table in tables])
        whole = find_worst_verdict([verdict_of(*table, n, 1.0) for table in tables])
        counts["shared"] += shared is GateVerdict.no_go
        counts["whole"] += whole is GateVerdict.no_go
        counts["go"] += shared is GateVerdict.go
    return Rate(counts["shared"], pairs), Rate(counts["whole"], pairs), Rate(counts["go"], pairs)


def policies(generator: np.random.Generator, pairs: int, limits: Limits) -> list[Rate]:
    """Print a line for each setting, and return the controls."""
    table = Table(
        f"loss of {100 * MARGIN:g} points, the margin: {pairs:,} gates a line",
        *("tasks", "with loss", "questions each", "NO-GO %", "without sharing %", "GO %"),
    )
    controls = []
    for tasks, n, disagree, losing in SETTINGS:
        shared, whole, go = simulate(generator, pairs, tasks, n, disagree, losing)
        limits.false.append(shared)
        limits.gates.append(go)
        controls.append(whole)
        table.row(tasks, losing, n, shared, whole, go)
    return controls


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("gate_tasks_null", __doc__, pairs=2000), Limits()
    policies(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
