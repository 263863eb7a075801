"""Paired verdicts that may be tested after each new pair: when is a difference decided, and how large can it be?

An exact test is made for a single look. If one tests again and again, and stops at the first p below 0.05, one finds a
difference between equals far too often. So this file tests by betting, where the number of looks does not matter. Let D
be +1 if only this side solves a question, -1 if only the other does, 0 for a tie. Against the claim that the true
difference is m or less, a gambler bets a share f of its capital on each next question: the question multiplies that
part by (1 + D) / (1 + m), whose mean is at most 1 if the claim is true. So by Ville's inequality, a capital that starts
at 1 ever reaches 2 / ALPHA with a probability of ALPHA / 2 at most, however often one looks. Every m against which it
does is excluded. A second gambler does the same from above: so 95 % of the intervals contain the true difference at
every look. Several shares are played in parallel, since the best one depends on the difference.

The smaller m is, the more is won against it: so the values that are not excluded form an interval, and an excluded
value stays excluded. Against m = 0 a tie changes nothing. A difference is decided as soon as the interval excludes 0,
so the decision and the interval always agree. All this assumes that questions come in random order. Pure Python, like
stats.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from runner.core.stats import ALPHA

SHARES = tuple(tenth / 10 for tenth in range(1, 10))  # of a gambler's capital, which is split equally among them
HALVINGS = 18  # steps of the bisection for an end of the interval: more precise than what is shown


class Decision(StrEnum):
    """The finding of the pairs so far about this side."""

    better = "better"
    worse = "worse"
    open = "undecided"


def log_capital(wins: int, losses: int, ties: int, difference: float = 0.0) -> float:
    """Return the log of the capital, from 1, of bets against a true difference of at most `difference`, above -1."""
    ratio = 1 / (1 + difference)  # a tie multiplies the bet by this, a win by twice this, a loss by 0
    logs = [
        wins * math.log1p(share * (2 * ratio - 1))
        + losses * math.log1p(-share)
        + ties * math.log1p(share * (ratio - 1))
        for share in SHARES
    ]
    most = max(logs)
    return most + math.log(math.fsum(math.exp(it - most) for it in logs) / len(logs))


@lru_cache(maxsize=1 << 16)  # a simulation uses the same counts again and again
def p_of(wins: int, losses: int) -> float:
    """Return the p of these discordant pairs against no difference: that of the better gambler, doubled for two."""
    most = max(log_capital(wins, losses, 0), log_capital(losses, wins, 0))
    return min(1.0, 2 * math.exp(-most))


def p_at_any_look(looks: Iterable[tuple[int, int, int]], difference: float) -> float:
    """Return the p against a true difference by wins, losses and ties at each look so far: it holds at all of them."""
    most = 0.0
    for wins, losses, ties in looks:
        above, below = log_capital(wins, losses, ties, difference), log_capital(losses, wins, ties, -difference)
        most = max(most, above, below)
    return min(1.0, 2 * math.exp(-most))


@dataclass
class Pairs:
    """Paired verdicts in the order of the questions, with the interval that all looks so far have left."""

    wins: int = 0  # only this side solved it
    losses: int = 0
    ties: int = 0
    low: float = -1.0
    high: float = 1.0
    p: float = 1.0  # valid at whatever look one stops
    decision: Decision = Decision.open  # the first one that is made is final

    def add(self, ours: bool, theirs: bool) -> None:
        """Look at one more pair."""
        self.wins += ours and not theirs
        self.losses += theirs and not ours
        self.ties += ours == theirs
        if ours != theirs:
            self.p = min(self.p, p_of(self.wins, self.losses))
        self.low = _excluded(self.low, self.wins, self.losses, self.ties)
        self.high = -_excluded(-self.high, self.losses, self.wins, self.ties)
        if self.decision is Decision.open and self.low >= 0:
            self.decision = Decision.better
        elif self.decision is Decision.open and self.high <= 0:
            self.decision = Decision.worse

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return self.wins + self.losses + self.ties

    @property
    def difference(self) -> float:
        """This side's share of solved questions minus the other's; 0 without pairs."""
        return (self.wins - self.losses) / self.count if self.count else 0.0


def _excluded(low: float, wins: int, losses: int, ties: int) -> float:
    """Return the bound below which all differences are excluded by these counts; it never decreases."""

    def is_excluded(difference: float) -> bool:
        return log_capital(wins, losses, ties, difference) >= math.log(2 / ALPHA)

    if low > -1 and not is_excluded(low):
        return low
    # 0 is tried separately, so that rounding cannot keep it in the interval when the difference is decided
    low, high = (0.0, 1.0) if low < 0 and is_excluded(0.0) else (low, 0.0 if low < 0 else 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_excluded(middle) else (low, middle)
    return low
