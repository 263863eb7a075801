"""Paired verdicts that may be tested after each new pair: when is a difference decided, and how
large can it be?

An exact test is made for a single look. If one tests again and again, and stops at the first p
below 0.05, one finds a difference between equals far too often. So this file tests by betting,
where the number of looks does not matter. Let D be +1 if only this side solves a question, -1 if
only the other does, 0 for a tie. Against the claim that the true difference is m or less, a gambler
bets a share f of its capital on each next question: the question multiplies that part by (1 + D) /
(1 + m), whose mean is at most 1 if the claim is true. So by Ville's inequality, a capital that
starts at 1 ever reaches 2 / level with a probability of level / 2 at most, however often one looks.
Every m against which it does is excluded. A second gambler does the same from above: so the
intervals contain the true difference at every look with a probability of 1 - level at least.
Several shares are played in parallel, since the best one depends on the difference; they begin at a
tenth, since smaller ones decide few more close cases and take up to a quarter more questions for
clear ones. A Beta mixture of the binomial has a similar power (early_stop_null.py), but gives no
interval.

The smaller m is, the more is won against it: so the values that are not excluded form an interval,
and an excluded value stays excluded. Against m = 0 a tie changes nothing. A difference is decided
as soon as the interval excludes 0, and a margin as soon as it excludes minus the margin. So
decisions and interval always agree, and any number of claims may be decided at the one level. All
this assumes that questions come in random order. One pair after another is looked at in pure
Python, like stats.py; an interval over many looks takes numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from runner_compare.statistics.stats import ALPHA

# of a gambler's capital, which is split equally among them
SHARES = tuple(tenth / 10 for tenth in range(1, 10))
HALVINGS = 19  # of the values from -1 to 1, to find an end of the interval: more precise than what is shown

Look = tuple[int, int, int]  # wins, losses and ties so far


class Side(StrEnum):
    """The finding of the pairs so far about this side."""

    better = "better"
    worse = "worse"
    open = "undecided"


def level_of(comparisons: int) -> float:
    """Return the level of each of several comparisons that share the 5 %."""
    return ALPHA / comparisons


def confidence_percent(comparisons: int) -> float:
    """Return the confidence of intervals at that level, as precisely as it is shown: 95, 98.3."""
    return round(100 - float(f"{100 * level_of(comparisons):.2g}"), 12)


@lru_cache(maxsize=256)
def _steps(difference: float) -> tuple[tuple[float, float, float], ...]:
    """Return for each share the logs of what a win, a loss and a tie multiply the capital by."""
    # a tie multiplies the bet by this, a win by twice this, a loss by 0
    ratio = 1 / (1 + difference)
    return tuple(
        (math.log1p(f * (2 * ratio - 1)), math.log1p(-f), math.log1p(f * (ratio - 1))) for f in SHARES
    )


def log_capital(wins: int, losses: int, ties: int, difference: float = 0.0) -> float:
    """Return the log of the capital, from 1, of bets against a true difference of at most
    `difference`, above -1."""
    logs = [wins * win + losses * loss + ties * tie for win, loss, tie in _steps(difference)]
    most = max(logs)
    return most + math.log(math.fsum(math.exp(log - most) for log in logs) / len(logs))


@lru_cache(maxsize=1 << 16)  # a simulation uses the same counts again and again
def p_of(wins: int, losses: int) -> float:
    """Return the p of these discordant pairs against no difference: that of the better gambler,
    doubled for two."""
    most = max(log_capital(wins, losses, 0), log_capital(losses, wins, 0))
    return min(1.0, 2 * math.exp(-most))


@dataclass
class Pairs:
    """Paired verdicts in the order of the questions, and what all looks so far have decided at one
    level."""

    level: float = ALPHA  # of all decisions together, and of the interval
    margin: float | None = None  # a difference of minus this is decided about, too
    wins: int = 0  # only this side solved it
    losses: int = 0
    ties: int = 0
    p: float = 1.0  # against no difference; valid at whatever look one stops
    decision: Side = Side.open  # the first one that is made is final
    # on which side of minus the margin the true difference lies; final, too
    from_margin: Side = Side.open
    looks: list[Look] = field(default_factory=list)
    _ends: tuple[float, float] = (-1.0, 1.0)  # the interval after the first `_ended` looks
    _ended: int = 0

    def add(self, solved: bool, base_solved: bool) -> None:
        """Look at one more pair."""
        self.wins += solved and not base_solved
        self.losses += base_solved and not solved
        self.ties += solved == base_solved
        self.looks.append((self.wins, self.losses, self.ties))
        if solved != base_solved:
            self.p = min(self.p, p_of(self.wins, self.losses))
        if self.decision is Side.open and self.p <= self.level:
            self.decision = Side.better if self.wins > self.losses else Side.worse
        if self.margin is not None and self.from_margin is Side.open:
            # the only pair from which the gambler below the margin wins
            if base_solved and not solved:
                is_below = log_capital(self.losses, self.wins, self.ties, self.margin) >= self._enough
                self.from_margin = Side.worse if is_below else Side.open
            else:
                is_above = log_capital(self.wins, self.losses, self.ties, -self.margin) >= self._enough
                self.from_margin = Side.better if is_above else Side.open

    @property
    def _enough(self) -> float:
        """The log of a capital that decides."""
        return math.log(2 / self.level)

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return self.wins + self.losses + self.ties

    @property
    def difference(self) -> float:
        """This side's share of solved questions minus the other's; 0 without pairs."""
        return (self.wins - self.losses) / self.count if self.count else 0.0

    @property
    def low(self) -> float:
        """The lower end of the interval that all looks so far have left."""
        return self._interval()[0]

    @property
    def high(self) -> float:
        """The upper end of that interval."""
        return self._interval()[1]

    def _interval(self) -> tuple[float, float]:
        """Return what the looks since the last call have left of the interval."""
        if self._ended < len(self.looks):
            above, below = _counts(self.looks[self._ended :])
            low, high = self._ends
            self._ends = (
                max(low, _excluded(above, self._enough)),
                min(high, -_excluded(below, self._enough)),
            )
            self._ended = len(self.looks)
        return self._ends

    def side_of(self, difference: float) -> Side:
        """Return on which side of a value the true difference was first shown to lie, at any look
        so far."""
        above, below = _counts(self.looks)
        is_above = log_capitals(above, difference) >= self._enough
        is_below = log_capitals(below, -difference) >= self._enough
        if not (is_above | is_below).any():
            return Side.open
        return Side.better if is_above[int((is_above | is_below).argmax())] else Side.worse

    def p_against(self, difference: float) -> float:
        """Return the p against a true difference by all looks so far: it holds whenever one
        stops."""
        above, below = _counts(self.looks)
        capitals = log_capitals(above, difference), log_capitals(below, -difference)
        return min(1.0, 2 * math.exp(-max(capital.max(initial=0.0) for capital in capitals)))


def _counts(looks: Sequence[Look]) -> tuple[Any, Any]:
    """Return wins, losses and ties at each look, as the gambler above a difference sees them and
    the one below it."""
    import numpy as np  # only where many looks are gone through at once

    counts = np.asarray(looks, dtype=float).reshape(-1, 3)
    return counts, counts[:, [1, 0, 2]]


def log_capitals(counts: Any, difference: float) -> Any:
    """Return `log_capital` of each look."""
    import numpy as np

    logs = counts @ np.transpose(_steps(difference))
    most = logs.max(axis=1, keepdims=True)
    return most[:, 0] + np.log(np.exp(logs - most).mean(axis=1))


def _excluded(counts: Any, enough: float) -> float:
    """Return the bound below which a look has excluded all differences; -1 if none has."""
    import numpy as np

    # always the same halves, 0 first: so it does not matter how many looks come at once
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_excluded = bool((log_capitals(counts, middle) >= enough).any())
        low, high = (middle, high) if is_excluded else (low, middle)
        # a tie wins, too, against all that is left: of equally many losses, the last look has won
        # most
        if high == 0:
            counts = counts[np.append(counts[1:, 1] > counts[:-1, 1], True)]
    return low
