"""How often is an early stop wrong, and how soon is a difference decided? `python bench/compare/early_stop_null.py`.

Two jobs answer the same 1,319 questions (see simulation.answers). The bets of `task.early_stop_vs` are checked after
every question, and the job stops when they have decided. Equal jobs are the null: every decision on them is false. Then
one job is better by so many points: how many decide for the better one, and after how many questions, next to the share
that McNemar's exact test finds once all questions are answered. "Jeffreys" are the same looks at the mixture of all
shares by Beta(1/2, 1/2), both ways at once, which makes no interval. At last, how often the interval leaves out the
true difference at any look.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from simulation import Limits, Rate, Solved, Table, answers, begin, disagreement

from runner_compare.statistics import ALPHA
from runner_compare.statistics.sequential import SequentialPairs, Side, compute_sequential_p_value
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value

QUESTIONS = 1319  # of GSM8K's test split
# accuracy, rho
NULLS = [(0.1, 0.8), (0.3, 0.5), (0.5, 0.0), (0.5, 0.8), (0.7, 0.8), (0.9, 0.8), (0.9, 0.95)]
POINTS = (2, 5, 10, 20)
# of the better job: as quantization changes a model, as another prompt does
APART = [(0.9, 0.95), (0.6, 0.8), (0.5, 0.5)]
COVERED = [(0.6, 0.8, 0.0), (0.9, 0.95, 0.05), (0.5, 0.5, 0.1)]  # accuracy, rho, difference


class Rule:
    """A rule of stopping at wins and losses. It is asked once for each pair of numbers, so that
    many jobs are quick."""

    def __init__(self, decides: Callable[[int, int], bool]) -> None:
        self.decides = decides
        # by wins and losses; -1: not asked yet
        self.known = np.full((QUESTIONS + 1, QUESTIONS + 1), -1, dtype=np.int8)

    def stop(self, ours: Solved, theirs: Solved) -> tuple[int, Side]:
        """Return after how many questions a job stops, and its decision; ties change nothing."""
        differing = np.flatnonzero(ours != theirs)
        wins = np.cumsum(ours[differing])
        losses = np.arange(1, len(differing) + 1) - wins
        for look in np.flatnonzero(self.known[wins, losses] < 0).tolist():
            self.known[wins[look], losses[look]] = self.decides(int(wins[look]), int(losses[look]))
        stops = self.known[wins, losses] > 0
        if not stops.any():
            return len(ours), Side.open
        first = int(stops.argmax())
        return int(differing[first]) + 1, Side.better if wins[first] > losses[first] else Side.worse


def jeffreys_decides(wins: int, losses: int) -> bool:
    """Whether the mixture by Beta(1/2, 1/2) stops."""
    total = wins + losses
    beta = math.lgamma(wins + 0.5) + math.lgamma(losses + 0.5) - math.lgamma(total + 1) - math.log(math.pi)
    return beta + total * math.log(2) >= math.log(1 / ALPHA)


BETS = Rule(
    lambda wins, losses: compute_sequential_p_value(wins, losses) <= ALPHA
)  # as task.early_stop_vs stops
JEFFREYS = Rule(jeffreys_decides)


@dataclass
class Stopped:
    """The outcomes of a number of jobs with early stops."""

    better: int = 0
    worse: int = 0
    # questions per job; all of them if it has not decided
    asked: list[int] = field(default_factory=list)

    def job(self, ours: Solved, theirs: Solved, rule: Rule) -> None:
        """Apply the rule to one job after every question."""
        asked, decision = rule.stop(ours, theirs)
        self.better += decision is Side.better
        self.worse += decision is Side.worse
        self.asked.append(asked)


def simulate(
    generator: np.random.Generator, accuracies: tuple[float, float], rho: float, pairs: int
) -> tuple[Stopped, Stopped, int]:
    """Return the outcomes of pairs of jobs by both rules, and how often McNemar's test on all
    questions finds the first one better.
    """
    bets, jeffreys, mcnemar_better = Stopped(), Stopped(), 0
    for _ in range(pairs):
        ours, theirs = answers(generator, QUESTIONS, accuracies, rho)
        bets.job(ours, theirs, BETS)
        jeffreys.job(ours, theirs, JEFFREYS)
        wins, losses = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        mcnemar_better += wins > losses and compute_exact_mcnemar_p_value(wins, losses) < ALPHA
    return bets, jeffreys, mcnemar_better


def equal(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often equal jobs are called different."""
    title = f"equal jobs of {QUESTIONS:,} questions, looked at after each: {pairs:,} pairs a line"
    table, rates = (Table(title, "accuracy", "rho", "disagree", "false decisions %", "by Jeffreys %"), [])
    for accuracy, rho in NULLS:
        bets, jeffreys, _ = simulate(generator, (accuracy, accuracy), rho, pairs)
        null, other = (Rate(it.better + it.worse, pairs) for it in (bets, jeffreys))
        table.row(accuracy, rho, f"{disagreement(accuracy, accuracy, rho):.1%}", null, other)
        rates.append(null)
    return rates


def apart(generator: np.random.Generator, pairs: int) -> None:
    """Print how often, and after how many questions, a true difference is decided."""
    title = (
        f"one job is better: {pairs:,} pairs a line; at most {QUESTIONS:,} questions, the middle of all jobs"
    )
    heads = "decided for the better %", "asked", "wrongly", "by Jeffreys", "asked", "McNemar on all"
    table = Table(title, "accuracy", "rho", "points", *heads)
    for accuracy, rho in APART:
        for points in POINTS:
            accuracies = (accuracy, accuracy - points / 100)
            bets, jeffreys, mcnemar_better = simulate(generator, accuracies, rho, pairs)
            middle, other = (f"{statistics.median(it.asked):.0f}" for it in (bets, jeffreys))
            better, *rest = (
                Rate(it, pairs) for it in (bets.better, bets.worse, jeffreys.better, mcnemar_better)
            )
            wrongly, by_jeffreys, by_mcnemar = (it.plain for it in rest)
            table.row(accuracy, rho, points, better, middle, wrongly, by_jeffreys, other, by_mcnemar)


def covered(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return how often an interval at any look excludes the truth."""
    title = f"intervals, after each of {QUESTIONS:,} questions: {pairs:,} pairs a line"
    table, rates = (Table(title, "accuracy", "rho", "points", "leave out the truth at any look %"), [])
    for accuracy, rho, difference in COVERED:
        missed = 0
        for _ in range(pairs):
            ours, theirs = answers(generator, QUESTIONS, (accuracy, accuracy - difference), rho)
            looks = zip(
                np.cumsum(ours & ~theirs).tolist(),
                np.cumsum(theirs & ~ours).tolist(),
                np.cumsum(ours == theirs).tolist(),
                strict=True,
            )
            missed += SequentialPairs(looks=list(looks)).find_first_decided_side(difference) is not Side.open
        rates.append(Rate(missed, pairs))
        table.row(accuracy, rho, f"{100 * difference:.0f}", rates[-1])
    return rates


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("early_stop_null", __doc__), Limits()
    limits.false += equal(generator, pairs)
    apart(generator, pairs)
    limits.false += covered(generator, pairs)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
