"""Format margins, margin verdicts and significance levels."""

from __future__ import annotations

from runner_compare.render.quantities import ACCURACIES, effect_unit, find_quantity
from runner_compare.statistics import Decision, Finding
from runner_compare.statistics.margins import MarginVerdict
from runner_compare.statistics.sequential import comparison_level
from runner_compare.statistics.stats import ALPHA

UNDECIDED = "undecided"  # the printed word; records and JSON have codes of their own
# a verdict without the margin, for a column whose head has it, and with the margin
VERDICTS = {
    MarginVerdict.better: ("better", "better"),
    MarginVerdict.as_good: ("no larger loss", "no loss above {margin}"),
    MarginVerdict.worse_but_within: ("worse, but by less", "worse, but by less than {margin}"),
    MarginVerdict.worse_by_more: ("worse by more", "worse by more than {margin}"),
    MarginVerdict.undecided: (UNDECIDED, f"{UNDECIDED} within {{margin}}"),
}


def format_margin_verdict(verdict: MarginVerdict, margin: str = "") -> str:
    """Format a margin verdict, e.g. `no loss above 2 points`, or `no larger loss` without a margin."""
    alone, with_margin = VERDICTS[verdict]
    return with_margin.format(margin=margin) if margin else alone


def format_finding(finding: Finding) -> str:
    """Format a finding, e.g. `worse`, or `undecided` for an open one."""
    return UNDECIDED if finding is Finding.open else str(finding)


def format_margin_points(margin: float) -> str:
    """Format a margin of accuracy, e.g. `2 points`."""
    return f"{100 * margin:g} point{'s' * (margin != 0.01)}"


def format_significance_level(num_comparisons: int) -> str:
    """Format a comparison's significance level, e.g. `5 %` or `1.7 % (5 % shared by 3 jobs)`."""
    shared = f" ({100 * ALPHA:g} % shared by {num_comparisons} jobs)" if num_comparisons > 1 else ""
    return f"{100 * comparison_level(num_comparisons):.2g} %{shared}"


def format_margin_and_measure_name(decision: Decision) -> str:
    """Format a margin with its measure, e.g. `2 points of accuracy` or `5 % of load_s`."""
    if find_quantity(decision) is ACCURACIES:
        return f"{format_margin(decision)} of accuracy"
    return (
        f"{format_margin(decision)} of {decision.measure}" if decision.is_ratio else format_margin(decision)
    )


def format_margin(decision: Decision) -> str:
    """Format a decision's margin with its unit, e.g. `2 points` or `0.01 nats/token`."""
    assert decision.margin is not None
    of = find_quantity(decision)
    if of is ACCURACIES:
        return format_margin_points(decision.margin)
    if decision.is_ratio:
        return f"{100 * decision.margin:g} %"
    return f"{decision.margin:g} {effect_unit(decision)}"
