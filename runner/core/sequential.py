"""Paired verdicts that may be looked at after every one of them: when is a difference decided, and how large can it be?

An exact test is meant for one look. Who tests again and again, and stops at the first p below 0.05, finds a difference
between equals far too often. Here bets are made instead, and looks are free. Let D be +1 where only this side solves a
question, -1 where only the other does, 0 for a tie. Against the claim that the true difference is m or less, a gambler
puts a share f of what it has on each next question: the question multiplies that part by (1 + D) / (1 + m), whose mean
is at most 1 if the claim is true. So by Ville's inequality, what has become of 1 ever reaches 2 / ALPHA with a
probability of ALPHA / 2 at most, however often one looks. All m of which that is so are excluded, and a second gambler
does the same from above: 95 % of the intervals hold the true difference at every look. Several shares are played side
by side, since the best one hangs on the difference.

The smaller m, the more is won against it: so what is not excluded is an interval, and once excluded stays excluded.
Against m = 0 a tie changes nothing, and a difference is decided as soon as the interval leaves 0 out: one thing decides
and shows. It supposes that questions come in random order. Pure Python, as in stats.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from runner.core.stats import ALPHA

SHARES = tuple(tenth / 10 for tenth in range(1, 10))  # of what a gambler has, played side by side from equal parts
HALVINGS = 18  # of an interval in which an end is looked for: a thousandth of a point is beyond what is shown


class Decision(StrEnum):
    """What the pairs so far say of this side."""

    better = "better"
    worse = "worse"
    open = "undecided"


def log_capital(wins: int, losses: int, ties: int, difference: float = 0.0) -> float:
    """Return the logarithm of what has become of 1 in bets against a true difference of so much or less, above -1."""
    ratio = 1 / (1 + difference)  # what a tie multiplies the played part by; a win twice that, a loss nothing
    logs = [
        wins * math.log1p(share * (2 * ratio - 1))
        + losses * math.log1p(-share)
        + ties * math.log1p(share * (ratio - 1))
        for share in SHARES
    ]
    most = max(logs)
    return most + math.log(math.fsum(math.exp(it - most) for it in logs) / len(logs))


@lru_cache(maxsize=1 << 16)  # a simulation asks for the same counts again and again
def p_of(wins: int, losses: int) -> float:
    """Return the p of these discordant pairs against no difference: by the better gambler, doubled as there are two."""
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
    """Paired verdicts in the order of the questions, with what all looks at them so far have excluded."""

    wins: int = 0  # only this side solved it
    losses: int = 0
    ties: int = 0
    low: float = -1.0
    high: float = 1.0
    p: float = 1.0  # holds at whatever look one stops
    decision: Decision = Decision.open  # the first one: it stays

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
        """This side's share of solved questions minus the other's; 0 of no pairs."""
        return (self.wins - self.losses) / self.count if self.count else 0.0


def _excluded(low: float, wins: int, losses: int, ties: int) -> float:
    """Return up to where differences are excluded, which never goes back: from below, for the counts as they stand."""

    def is_excluded(difference: float) -> bool:
        return log_capital(wins, losses, ties, difference) >= math.log(2 / ALPHA)

    if low > -1 and not is_excluded(low):
        return low
    # 0 is tried by itself, so that the interval leaves it out as soon as the difference is decided, and not by rounding
    low, high = (0.0, 1.0) if low < 0 and is_excluded(0.0) else (low, 0.0 if low < 0 else 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_excluded(middle) else (low, middle)
    return low
