"""Formats text about answers that a token limit cut off.

A comparison counts cut-off answers as not solved. It also tests both extremes: this run's
cut-off answers are wrong and the baseline's are correct, and the reverse. Only what both
extremes show is a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_base import format_count
from runner_compare.model.data import TableRow
from runner_compare.render.effects import format_effect, format_effect_values_and_interval
from runner_compare.render.margins import UNDECIDED, format_margin, format_margin_verdict
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import effect_unit
from runner_compare.statistics import Decision, Finding, MarginVerdict
from runner_compare.statistics.floor_effects import LIMIT

ENDS = ("at_worst", "at_best")
LEGEND = (
    "Bounds: the accuracy and the difference if all cut-off answers count as wrong … as correct (those of the baseline "
    "the reverse), with an interval around both bounds. Only what both bounds show is a finding. Holm is that of the "
    "larger p."
)


def format_cut_off_finding(decision: Decision) -> str:
    """Return a comparison's finding as text, or `undecided` if cut-off answers could change it."""
    if decision.depends_on_cut_off_answers and decision.finding is Finding.open:
        return UNDECIDED
    return str(decision.finding)


def format_cut_off_answers_sentence(decision: Decision) -> str:
    """Return a sentence that tells whether a finding could change if cut-off answers were complete.

    Returns "" if nothing was cut off, or if there is no finding.
    """
    if decision.ends is None:
        return render_notes(decision.unplanned) if decision.depends_on_cut_off_answers else ""
    many, ends = _format_cut_off_counts(decision), _format_range(decision)
    if not decision.depends_on_cut_off_answers:
        if decision.is_undecided:
            return ""
        return f"the finding does not depend on the cut-off answers ({many}): Δ {ends}"
    return (
        f"{_format_verdict_if_cut_offs_wrong(decision)} if cut-off answers ({many}) count as wrong, but "
        f"{UNDECIDED} if some of them could be correct. "
        f"Depending on these answers, Δ is {ends}. Raise {LIMIT}"
    )


def _format_verdict_if_cut_offs_wrong(decision: Decision) -> str:
    was = decision.as_counted
    assert was is not None
    if was.verdict not in (None, MarginVerdict.undecided, decision.verdict):
        return format_margin_verdict(was.verdict, format_margin(was))
    return str(was.finding)


def _format_cut_off_counts(decision: Decision) -> str:
    """Format the numbers of cut-off answers: `12 of 200 here, 3 of 200 in the baseline`."""
    each = decision.counts.get("samples") or 1
    sides = zip(decision.cut_off, (decision.n, decision.baseline_n), ("here", "in the baseline"), strict=True)
    return ", ".join(
        f"{cut:,} of {format_count(n * each, 'answer')} {where}" for cut, n, where in sides if cut
    )


def _format_range(decision: Decision) -> str:
    return f"{format_worst_and_best_difference(decision)} {effect_unit(decision)}"


def format_worst_and_best_difference(decision: Decision) -> str:
    """Format the smallest and largest possible difference, with a confidence interval that covers both.

    At the extremes, this run's cut-off answers are wrong and the baseline's correct, or the reverse.
    """
    if decision.ends is None:
        return format_effect(decision)
    worst, best = decision.ends
    at_worst, at_best, low, high = format_effect_values_and_interval(decision, worst.value, best.value)
    return f"{at_worst} … {at_best} [{low}, {high}]"


def build_cut_off_answers_record(decision: Decision) -> dict[str, Any]:
    """Return the smallest and largest difference that completed answers could give, as JSON data.

    The result is empty if no answer was cut off.
    """
    was = decision.as_counted
    if decision.ends is None or was is None:
        return {}
    return {
        "without_limit": {
            "cut_off": decision.cut_off[0],
            "baseline_cut_off": decision.cut_off[1],
            "decides": decision.depends_on_cut_off_answers,
            "finding_as_counted": was.finding,
            "verdict_as_counted": was.verdict,
            "p_holm_as_counted": was.p_holm,
            **{name: _extreme_record(end) for name, end in zip(ENDS, decision.ends, strict=True)},
        }
    }


def _extreme_record(decision: Decision) -> dict[str, Any]:
    ends = {"difference": decision.value, "difference_low": decision.low, "difference_high": decision.high}
    return ends | {
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
        "verdict": decision.verdict,
    }


def flatten_cut_off_answers_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the JSON data about cut-off answers to CSV columns, e.g. `difference_at_worst`."""
    flat = {f"without_limit_{key}": value for key, value in record.items() if not isinstance(value, dict)}
    return flat | {
        f"{key}_{end}": value for end in ENDS if end in record for key, value in record[end].items()
    }


def format_accuracy_bounds(row: TableRow) -> str:
    """Format the range of accuracies that a run could have had without a token limit.

    The range extends from all cut-off answers wrong to all correct. The interval covers both.
    """
    bounds = row.run.accuracy_bounds
    if bounds is None:
        return ""
    at_worst, at_best, low, high = (100 * share for share in bounds)
    return f"{at_worst:.1f} … {at_best:.1f} % [{low:.1f}, {high:.1f}]"
