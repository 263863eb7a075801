"""Texts on what cut-off answers leave undecided, since they might have been correct or wrong.

A comparison counts them as not solved. Next to this are both extremes: this run's cut-off
answers wrong and the baseline's correct, and the reverse. Only what both extremes show is a
finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_base import format_count
from runner_compare.model.data import TableRow
from runner_compare.render.effects import format_effect, format_values_and_interval
from runner_compare.render.margins import format_margin, format_verdict
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import effect_unit
from runner_compare.statistics import Decision, Finding, MarginVerdict
from runner_compare.statistics.floor_effects import LIMIT

UNDECIDED = "undecided"
ENDS = ("at_worst", "at_best")
LEGEND = (
    "Without limit: the difference if all cut-off answers are wrong … right (those of the baseline the reverse), with "
    "an interval around both ends. Only what both ends show is a finding, and Holm is that of the larger p."
)


def finding_text(decision: Decision) -> str:
    """Return a comparison's finding as text; `undecided` if it depends on cut-off answers."""
    if decision.hinges_on_cut_off and decision.finding is Finding.open:
        return UNDECIDED
    return str(decision.finding)


def cut_off_sentence(decision: Decision) -> str:
    """Return a sentence on whether a finding holds for any outcome of cut-off answers.

    Returns "" if nothing was cut off, or if there is no finding.
    """
    if decision.ends is None:
        return render_notes(decision.unplanned) if decision.hinges_on_cut_off else ""
    many, ends = _format_cut_off_counts(decision), _format_range(decision)
    if not decision.hinges_on_cut_off:
        if decision.is_undecided:
            return ""
        return f"the finding holds whatever the cut-off answers ({many}) would have been: Δ {ends}"
    return (
        f"{_counted_verdict_text(decision)} as counted, but cut-off answers decide it ({many}). Right or "
        f"wrong, they make Δ {ends}. Raise {LIMIT}"
    )


def _counted_verdict_text(decision: Decision) -> str:
    was = decision.as_counted
    assert was is not None
    if was.verdict not in (None, MarginVerdict.undecided, decision.verdict):
        return format_verdict(was.verdict, format_margin(was))
    return str(was.finding)


def _format_cut_off_counts(decision: Decision) -> str:
    """Format the numbers of cut-off answers: `12 of 200 here, 3 of 200 in the baseline`."""
    each = decision.counts.get("samples") or 1
    sides = zip(decision.cut_off, (decision.n, decision.baseline_n), ("here", "in the baseline"), strict=True)
    return ", ".join(
        f"{cut:,} of {format_count(n * each, 'answer')} {where}" for cut, n, where in sides if cut
    )


def _format_range(decision: Decision) -> str:
    return f"{format_cut_off_range(decision)} {effect_unit(decision)}"


def format_cut_off_range(decision: Decision) -> str:
    """Format the differences if cut-off answers are wrong and if correct, with an interval around
    both.
    """
    if decision.ends is None:
        return format_effect(decision)
    worst, best = decision.ends
    at_worst, at_best, low, high = format_values_and_interval(decision, worst.value, best.value)
    return f"{at_worst} … {at_best} [{low}, {high}]"


def cut_off_record(decision: Decision) -> dict[str, Any]:
    """Return the differences at both extremes of cut-off answers as JSON data; {} if none was cut
    off.
    """
    was = decision.as_counted
    if decision.ends is None or was is None:
        return {}
    return {
        "without_limit": {
            "cut_off": decision.cut_off[0],
            "baseline_cut_off": decision.cut_off[1],
            "decides": decision.hinges_on_cut_off,
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


def flatten_cut_off_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return both extremes as CSV columns, e.g. `difference_at_worst` next to `difference`."""
    flat = {f"without_limit_{key}": value for key, value in record.items() if not isinstance(value, dict)}
    return flat | {
        f"{key}_{end}": value for end in ENDS if end in record for key, value in record[end].items()
    }


def format_accuracy_bounds(row: TableRow) -> str:
    """Format a row's accuracy range without a token limit: if cut-off answers are wrong … correct.

    The interval covers both.
    """
    bounds = row.run.accuracy_bounds
    if bounds is None:
        return ""
    at_worst, at_best, low, high = (100 * share for share in bounds)
    return f"{at_worst:.1f} … {at_best:.1f} % [{low:.1f}, {high:.1f}]"
