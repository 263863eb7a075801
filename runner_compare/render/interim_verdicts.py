"""Render the interim result of a run that is compared while running."""

from __future__ import annotations

from runner_base import count_digits_to_distinguish_limit
from runner_compare.model.interim_comparison import InterimComparison
from runner_compare.render.margins import UNDECIDED, format_margin_points, format_margin_verdict
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics.margins import MarginVerdict
from runner_compare.statistics.sequential import Side


def format_interim_verdict(comparison: InterimComparison) -> str:
    """Return the current verdict, e.g. `better`, `no loss above 2 points` or `undecided`."""
    if comparison.margin is None:
        return UNDECIDED if comparison.decision is Side.open else comparison.decision
    text = format_margin_verdict(comparison.verdict, format_margin_points(comparison.margin))
    is_worse = comparison.verdict is MarginVerdict.undecided and comparison.decision is Side.worse
    return f"worse, and {text}" if is_worse else text


def format_interim_summary(comparison: InterimComparison) -> str:
    values = (comparison.pairs.sequential.difference, *comparison.pairs.interval)
    more = (
        0
        if comparison.margin is None
        else count_digits_to_distinguish_limit(values, -comparison.margin, format_percentage_points)
    )
    difference, low, high = (format_percentage_points(value, more) for value in values)
    return f"difference {difference} points [{low}, {high}], {format_interim_verdict(comparison)}"
