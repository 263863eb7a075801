"""Margins, verdicts about them and levels, in words."""

from __future__ import annotations

from runner_compare.render.quantities import ACCURACIES, quantity, unit_of
from runner_compare.statistics import Decision
from runner_compare.statistics.margins import MarginVerdict
from runner_compare.statistics.sequential import level_of
from runner_compare.statistics.stats import ALPHA

# a verdict, and what follows with the margin; a column whose head has the margin shows the verdict alone
VERDICTS = {
    MarginVerdict.better: ("better", ""),
    MarginVerdict.as_good: ("as good", " within {margin}"),
    MarginVerdict.worse_but_within: ("worse, but by less", " than {margin}"),
    MarginVerdict.worse_by_more: ("worse by more", " than {margin}"),
    MarginVerdict.undecided: ("undecided", " within {margin}"),
}


def verdict_words(verdict: MarginVerdict, margin: str = "") -> str:
    """Return a decision about a margin such as `2 points` in words; the verdict alone without a margin."""
    words, of_margin = VERDICTS[verdict]
    return words + of_margin.format(margin=margin) * bool(margin)


def points_of_margin(margin: float) -> str:
    """Return a margin of accuracy as it is shown: `2 points`."""
    return f"{100 * margin:g} point{'s' * (margin != 0.01)}"


def level_words(comparisons: int) -> str:
    """Return that level in words: `5 %`, `1.7 % (5 % shared by 3 jobs)`."""
    shared = f" ({100 * ALPHA:g} % shared by {comparisons} jobs)" if comparisons > 1 else ""
    return f"{100 * level_of(comparisons):.2g} %{shared}"


def margin_words(decision: Decision) -> str:
    """Return the margin with its unit: `2 points`, `0.01 nats/token`."""
    assert decision.margin is not None
    of = quantity(decision)
    if of is ACCURACIES:
        return points_of_margin(decision.margin)
    if decision.is_ratio:
        return f"{100 * decision.margin:g} %"
    return f"{decision.margin:g} {unit_of(decision)}"
