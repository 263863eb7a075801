"""What a run that is compared while it runs has decided so far, in words."""

from __future__ import annotations

from runner_base import more_digits
from runner_compare.model.running_bets import RunningBets
from runner_compare.render.margins import points_of_margin, verdict_words
from runner_compare.render.quantities import points
from runner_compare.statistics.margins import MarginVerdict
from runner_compare.statistics.sequential import Side


def bets_verdict(bets: RunningBets) -> str:
    """Return what is decided so far: `better`, `worse`, `as good within 2 points`, `undecided`."""
    if bets.margin is None:
        return bets.decision
    text = verdict_words(bets.verdict, points_of_margin(bets.margin))
    is_worse = bets.verdict is MarginVerdict.undecided and bets.decision is Side.worse
    return f"worse, and {text}" if is_worse else text


def bets_words(bets: RunningBets) -> str:
    """Return the difference with its interval, and what is decided."""
    values = (bets.pairs.difference, bets.pairs.low, bets.pairs.high)
    more = 0 if bets.margin is None else more_digits(values, -bets.margin, points)
    difference, low, high = (points(value, more) for value in values)
    return f"{difference} points [{low}, {high}], {bets_verdict(bets)}"
