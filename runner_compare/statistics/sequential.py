"""Anytime-valid test of paired verdicts, which may be evaluated after each new pair.

An exact test is made for a single look. If one tests again and again, and stops at the
first p-value below 0.05, one finds a difference between equals far too often. So this test
uses betting (e-processes), where the number of looks does not matter. Let D be +1 if only
this side solves a question, -1 if only the other does, 0 for a tie. Against the claim that
the true difference is m or less, a bettor stakes a fraction f of its capital on each next
question: the question multiplies that part by (1 + D) / (1 + m), whose mean is at most 1 if
the claim is true. So by Ville's inequality, a capital that starts at 1 ever reaches 2 /
level with a probability of level / 2 at most, however often one looks. Every m against
which it does is excluded. A second bettor does the same from above: so the intervals
contain the true difference at every look with a probability of 1 - level at least. Several
fractions are played in parallel, since the best one depends on the difference; they begin
at a tenth, since smaller ones decide few more close cases and take up to a quarter more
questions for clear ones. A Beta mixture of the binomial has a similar power
(early_stop_null.py), but gives no interval.

The smaller m is, the more is won against it: so the values that are not excluded form an
interval, and an excluded value stays excluded. Against m = 0 a tie changes nothing. A
difference is decided as soon as the interval excludes 0, and a margin as soon as it
excludes minus the margin. So decisions and interval always agree, and any number of claims
may be decided at the one level. All this assumes that questions come in random order.
Single pairs are processed in pure Python; an interval over many looks takes numpy.
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
    """Position of the true difference relative to a null value: significantly above, below, or undecided."""

    better = "better"
    worse = "worse"
    open = "undecided"


def comparison_level(num_comparisons: int) -> float:
    """Return the significance level of each of several comparisons that share a 5 % error rate."""
    return ALPHA / num_comparisons


def confidence_percent(num_comparisons: int) -> float:
    """Return the confidence level, in percent, of each of several comparisons that share a 5 % error rate."""
    return round(100 - float(f"{100 * comparison_level(num_comparisons):.2g}"), 12)


@lru_cache(maxsize=256)
def _compute_log_e_value_changes(null_difference: float) -> tuple[tuple[float, float, float], ...]:
    """Return how much a win, a loss and a tie change the log capital of the e-process, per betting
    fraction.
    """
    # a tie multiplies the bet by this, a win by twice this, a loss by 0
    ratio = 1 / (1 + null_difference)
    return tuple(
        (math.log1p(f * (2 * ratio - 1)), math.log1p(-f), math.log1p(f * (ratio - 1))) for f in SHARES
    )


def compute_log_e_value(wins: int, losses: int, ties: int, null_difference: float = 0.0) -> float:
    """Return the log e-value against the claim that the true difference is at most `null_difference`.

    The e-value is the capital of a bettor that starts with 1. The null difference is above -1.
    """
    logs = [
        wins * win + losses * loss + ties * tie
        for win, loss, tie in _compute_log_e_value_changes(null_difference)
    ]
    most = max(logs)
    return most + math.log(math.fsum(math.exp(log - most) for log in logs) / len(logs))


@lru_cache(maxsize=1 << 16)  # a simulation uses the same counts again and again
def compute_sequential_p_value(wins: int, losses: int) -> float:
    """Return the anytime-valid p-value against no difference, from the discordant pairs."""
    most = max(compute_log_e_value(wins, losses, 0), compute_log_e_value(losses, wins, 0))
    return min(1.0, 2 * math.exp(-most))


@dataclass
class SequentialPairs:
    """Counts of wins, losses and ties in question order, and the decisions of the anytime-valid test."""

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

    def add_pair(self, solved: bool, base_solved: bool) -> None:
        self.wins += solved and not base_solved
        self.losses += base_solved and not solved
        self.ties += solved == base_solved
        self.looks.append((self.wins, self.losses, self.ties))
        if solved != base_solved:
            self.p = min(self.p, compute_sequential_p_value(self.wins, self.losses))
        if self.decision is Side.open and self.p <= self.level:
            self.decision = Side.better if self.wins > self.losses else Side.worse
        if self.margin is not None and self.from_margin is Side.open:
            # the only pair from which the gambler below the margin wins
            if base_solved and not solved:
                is_below = (
                    compute_log_e_value(self.losses, self.wins, self.ties, self.margin)
                    >= self._decisive_log_capital
                )
                self.from_margin = Side.worse if is_below else Side.open
            else:
                is_above = (
                    compute_log_e_value(self.wins, self.losses, self.ties, -self.margin)
                    >= self._decisive_log_capital
                )
                self.from_margin = Side.better if is_above else Side.open

    @property
    def _decisive_log_capital(self) -> float:
        return math.log(2 / self.level)

    @property
    def num_pairs(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def difference(self) -> float:
        """Accuracy of the run minus that of its baseline; 0 without pairs."""
        return (self.wins - self.losses) / self.num_pairs if self.num_pairs else 0.0

    @property
    def interval_low(self) -> float:
        return self._update_interval()[0]

    @property
    def interval_high(self) -> float:
        return self._update_interval()[1]

    def _update_interval(self) -> tuple[float, float]:
        if self._ended < len(self.looks):
            above, below = _build_win_loss_tie_counts(self.looks[self._ended :])
            low, high = self._ends
            self._ends = (
                max(low, _find_largest_excluded_difference(above, self._decisive_log_capital)),
                min(high, -_find_largest_excluded_difference(below, self._decisive_log_capital)),
            )
            self._ended = len(self.looks)
        return self._ends

    def find_first_decided_side(self, null_difference: float) -> Side:
        above, below = _build_win_loss_tie_counts(self.looks)
        is_above = compute_log_e_values(above, null_difference) >= self._decisive_log_capital
        is_below = compute_log_e_values(below, -null_difference) >= self._decisive_log_capital
        if not (is_above | is_below).any():
            return Side.open
        return Side.better if is_above[int((is_above | is_below).argmax())] else Side.worse

    def compute_p_value_against(self, null_difference: float) -> float:
        above, below = _build_win_loss_tie_counts(self.looks)
        capitals = (
            compute_log_e_values(above, null_difference),
            compute_log_e_values(below, -null_difference),
        )
        return min(1.0, 2 * math.exp(-max(capital.max(initial=0.0) for capital in capitals)))


def _build_win_loss_tie_counts(outcome_counts: Sequence[Look]) -> tuple[Any, Any]:
    """Return the counts of wins, losses and ties after each pair, from the view of the run and of
    its baseline.
    """
    import numpy as np  # only where many looks are gone through at once

    counts = np.asarray(outcome_counts, dtype=float).reshape(-1, 3)
    return counts, counts[:, [1, 0, 2]]


def compute_log_e_values(outcome_counts: Any, null_difference: float) -> Any:
    import numpy as np

    logs = outcome_counts @ np.transpose(_compute_log_e_value_changes(null_difference))
    most = logs.max(axis=1, keepdims=True)
    return most[:, 0] + np.log(np.exp(logs - most).mean(axis=1))


def _find_largest_excluded_difference(outcome_counts: Any, log_capital_threshold: float) -> float:
    """Return the largest difference that the test excludes as too low; -1 if it excludes none."""
    import numpy as np

    # always the same halves, 0 first: so it does not matter how many looks come at once
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_excluded = bool((compute_log_e_values(outcome_counts, middle) >= log_capital_threshold).any())
        low, high = (middle, high) if is_excluded else (low, middle)
        # a tie wins, too, against all that is left: of equally many losses, the last look has won
        # most
        if high == 0:
            outcome_counts = outcome_counts[np.append(outcome_counts[1:, 1] > outcome_counts[:-1, 1], True)]
    return low
