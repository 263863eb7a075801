"""What does a gate say over many nights? `python bench/compare/gate_nights_null.py [--pairs 200]`.

Each repetition has 30 nights of fresh questions against one baseline. The truth is known: identical
models that disagree by chance, a loss of exactly the margin, and larger losses. The verdicts are those
of `runner-compare gate --history`; the control is the gate without a history, which forgets the nights
before. Stated: *NO-GO at least once in 30 nights* for a loss of at most the margin: at most 5 %. *GO*
for a loss of the margin: at most 2.5 % of the nights.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from simulation import Limits, Rate, Table, begin

from runner_compare.model.data import Run
from runner_compare.release_gate.compute import check_loss_within_margin
from runner_compare.release_gate.history import share_of_night
from runner_compare.release_gate.verdicts import GateVerdict
from runner_compare.statistics import McNemarTest, decide_comparisons_with_holm

NIGHTS, MARGIN = 30, 0.02
# the number of questions, the share of them on which both runs disagree, the true difference
SETTINGS = [
    *((500, share, 0.0) for share in (0.02, 0.04, 0.08)),
    *((2000, share, 0.0) for share in (0.02, 0.04, 0.08)),
    *((n, share, -MARGIN) for n in (500, 2000) for share in (0.04, 0.08)),
    *((2000, 0.08, difference) for difference in (-0.01, -0.03, -0.05)),
]
NOBODY = Run("run", "run", "any", "1", "", {}, {})


@cache
def verdict_of(wins: int, losses: int, n: int, night: int | None) -> GateVerdict:
    """Return the gate's verdict on one table of pairs."""
    (decision,) = decide_comparisons_with_holm([McNemarTest(wins, losses, n)], {"accuracy": MARGIN})
    return check_loss_within_margin(decision, NOBODY, "", share_of_night(night or 0)).verdict


def simulate(
    generator: np.random.Generator, pairs: int, n: int, share: float, difference: float
) -> tuple[Rate, Rate, Rate, Rate, float]:
    """Return how often NO-GO is said at least once with a history and without, how often a night is GO
    or ASK, and the mean of the first night with NO-GO."""
    chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    once = without = go = ask = 0
    first: list[int] = []
    for _ in range(pairs):
        tables = generator.multinomial(n, chances, size=NIGHTS)[:, :2].tolist()
        nights = [verdict_of(*table, n, night) for night, table in enumerate(tables, 1)]
        once += GateVerdict.no_go in nights
        without += any(verdict_of(*table, n, None) is GateVerdict.no_go for table in tables)
        go += nights.count(GateVerdict.go)
        ask += nights.count(GateVerdict.ask)
        if GateVerdict.no_go in nights:
            first.append(nights.index(GateVerdict.no_go) + 1)
    mean = float(np.mean(first)) if first else float("nan")
    return Rate(once, pairs), Rate(without, pairs), Rate(go, pairs * NIGHTS), Rate(ask, pairs * NIGHTS), mean


def nights(generator: np.random.Generator, pairs: int, limits: Limits) -> list[Rate]:
    """Print a line for each setting, and return the controls where the loss is just the margin."""
    table = Table(
        f"{NIGHTS} nights, margin {100 * MARGIN:g} points: {pairs:,} repetitions a line",
        *(
            "n",
            "disagree",
            "truth",
            "NO-GO once %",
            "without history %",
            "GO a night %",
            "ASK a night %",
            "first NO-GO",
        ),
    )
    controls = []
    for n, share, difference in SETTINGS:
        once, without, go, ask, first = simulate(generator, pairs, n, share, difference)
        if difference >= -MARGIN:
            limits.false.append(once)
        if difference == -MARGIN:
            controls.append(without)
            limits.gates.append(go)
        table.row(n, f"{share:.0%}", f"{100 * difference:+g}", once, without, go, ask, f"{first:.1f}")
    return controls


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("gate_nights_null", __doc__, pairs=200), Limits()
    nights(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
