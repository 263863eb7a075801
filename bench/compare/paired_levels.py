"""How often is anything wrong that is said of a table? `python bench/compare/paired_levels.py`.

First, nothing is drawn: for n questions, the chance of any wrong word about one comparison (the finding, or the verdict
about the margin) is summed over all tables of wins and losses, at true differences of 0, minus half the margin and
minus the margin, and at any disagreement. Printed is the largest chance of all, in percent of the level that the
comparison has as one of several. Then tables of ten rows are drawn, five equal to the baseline and five worse by
exactly the margin: in how many is any word wrong, and how many words are shown? The control is Tango's test without a
correction, beside the findings at an error of their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, gammaln, ndtr
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import ALPHA, Finding, MarginVerdict, McNemarTest, decide_comparisons_with_holm
from runner_compare.statistics.stats import continuity_correction

QUESTIONS = [10, 20, 40, 60, 100, 200]
MARGINS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
COMPARISONS = [1, 2, 5, 10]  # that share the 5 %
# of what may be discordant
NOISE = np.unique(np.concatenate([np.geomspace(1e-4, 1, 16), np.linspace(0, 1, 9)]))
ROWS, N, MARGIN, DISAGREE = 5, 1319, 0.05, 0.1


@dataclass(frozen=True)
class Tests:
    """The two-sided p of each table of n pairs, against 0 and against minus the margin; and which
    side it is on."""

    p: Any
    p_margin: Any
    estimate: Any
    margin: float
    is_coherent: bool  # worse by more than the margin is said only of what is worse

    def wrong(self, level: float, truth: float) -> Any:
        """Return which tables say something wrong about a true difference."""
        better, worse = ((self.p < level) & (sign * self.estimate > 0) for sign in (1, -1))
        good = better | (self.p_margin < level) & (self.estimate > -self.margin)
        by_more = (self.p_margin < level) & (self.estimate < -self.margin)
        by_more = by_more & worse if self.is_coherent else by_more
        wrong = better | by_more
        if truth == 0:
            wrong = wrong | worse
        return wrong | good if truth == -self.margin else wrong


def tables_of(n: int) -> tuple[Any, Any]:
    wins, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    return wins[wins + losses <= n], losses[wins + losses <= n]


def tango(wins: Any, losses: Any, n: int, margin: float, correction: Any) -> Any:
    """Return the two-sided p of Tango's score test at minus the margin."""
    distance = np.maximum(0, np.abs(wins - losses + n * margin) - correction)
    linear = -(2 * n - wins + losses) * margin - wins - losses
    constant = losses * margin * (1 + margin)
    only_second = (np.sqrt(np.maximum(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * only_second - margin * (1 + margin))
    return 2 * ndtr(-distance / np.sqrt(np.maximum(variance, 1e-12)))


def both_tests(wins: Any, losses: Any, n: int, margin: float) -> tuple[Tests, Tests]:
    """Return the tests of before and of now; the latter are stats.paired_difference_p on arrays."""
    p = np.where(
        wins == losses, 1.0, np.minimum(1, 2 * bdtr(np.minimum(wins, losses) * 1.0, wins + losses, 0.5))
    )
    estimate = (wins - losses) / n
    few = 2 * bdtr(losses * 1.0, n, margin)
    many = np.where(losses > 0, 2 * (1 - bdtr(np.maximum(losses - 1.0, 0), n, margin)), 1)
    now = tango(wins, losses, n, margin, continuity_correction(wins, losses, n))
    now = np.where(estimate > -margin, np.minimum(now, few), np.maximum(now, many))
    return (
        Tests(p, tango(wins, losses, n, margin, 0), estimate, margin, False),
        Tests(p, now, estimate, margin, True),
    )


def chances(wins: Any, losses: Any, n: int, difference: float, noise: float) -> Any:
    """Return the probability of each table."""
    win, loss = (noise * (1 - abs(difference)) / 2 + max(0.0, sign * difference) for sign in (1, -1))
    ties = n - wins - losses
    logs = gammaln(n + 1) - gammaln(wins + 1) - gammaln(losses + 1) - gammaln(ties + 1)
    for count, chance in ((wins, win), (losses, loss), (ties, 1 - win - loss)):
        logs = logs + np.where(count > 0, count * np.log(max(chance, 1e-300)), 0.0)
    return np.exp(logs)


def summed(n: int) -> tuple[list[float], list[float]]:
    """Return the largest chance of a wrong word as a share of each level, before and now."""
    wins, losses = tables_of(n)
    largest = np.zeros((2, len(COMPARISONS)))
    for margin in MARGINS:
        both = both_tests(wins, losses, n, margin)
        for truth in (0.0, -margin / 2, -margin):
            wrong = np.array(
                [[one.wrong(ALPHA / count, truth) for count in COMPARISONS] for one in both], float
            )
            for noise in NOISE:
                largest = np.maximum(largest, wrong @ chances(wins, losses, n, truth, float(noise)))
    return tuple((largest / (ALPHA / np.array(COMPARISONS))).tolist())


def drawn(generator: np.random.Generator, count: int) -> tuple[Rate, Rate, Rate]:
    """Return how many tables have a wrong word, equal rows are as good, and worse rows are found to
    be worse."""
    noise = (1 - MARGIN) * DISAGREE / 2
    equal = generator.multinomial(N, [DISAGREE / 2, DISAGREE / 2, 1 - DISAGREE], (count, ROWS))
    worse = generator.multinomial(N, [noise, noise + MARGIN, 1 - 2 * noise - MARGIN], (count, ROWS))
    wrong = good = found = 0
    for at in range(count):
        tables = np.concatenate([equal[at], worse[at]])[:, :2].tolist()
        rows = decide_comparisons_with_holm(
            [McNemarTest(wins, losses, N) for wins, losses in tables], {"accuracy": MARGIN}
        )
        alike, lost = rows[:ROWS], rows[ROWS:]
        wrong += (
            any(it.finding is not Finding.open or it.verdict is MarginVerdict.worse_by_more for it in alike)
            or any(it.verdict is not MarginVerdict.undecided for it in lost)
            or any(it.finding is Finding.better for it in lost)
        )
        good += sum(it.verdict is MarginVerdict.as_good for it in alike)
        found += sum(it.finding is Finding.worse for it in lost)
    return Rate(wrong, count), Rate(good, count * ROWS), Rate(found, count * ROWS)


def main() -> int:
    """Sum, draw and print; 1 if anything is above its level."""
    (count, generator, started), limits = begin("paired_levels", __doc__, 4000, "tables"), Limits()
    title = "largest chance of a wrong word about one comparison, in % of its level"
    heads = [f"{comparisons} share{words}" for words in ("", ", control") for comparisons in COMPARISONS]
    table, highest = Table(title, "n", *heads), 0.0
    for n in QUESTIONS:
        control, now = summed(n)
        highest = max(highest, *now)
        table.row(n, *(f"{100 * one:.1f}" for one in (*now, *control)))
    title = (
        f"{count:,} tables of {ROWS} equal rows and {ROWS} that are {100 * MARGIN:g} points worse, n = {N:,}"
    )
    heads = ["any word wrong %", "equal called as good %", "worse found %"]
    wrong, good, found = drawn(generator, count)
    Table(f"{title}, --margin {100 * MARGIN:g}, {DISAGREE:.0%} differ by noise", *heads).row(
        wrong, good, found
    )
    limits.false.append(wrong)
    return limits.conclude(started) or int(highest > 1)


if __name__ == "__main__":
    sys.exit(main())
