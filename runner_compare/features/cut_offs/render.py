"""What answers that were cut off leave open, in words and as plain data: they would have been right
or wrong.

The figures of a comparison count them as not solved. Beside these stand both ends: this row's
cut-off answers wrong and the baseline's right, and the reverse. Only what both ends show is a
finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_base import counted
from runner_compare.model.data import TableRow
from runner_compare.render.effects import value_of, written_interval
from runner_compare.render.margins import margin_words, verdict_words
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import unit_of
from runner_compare.statistics import Decision, Finding, MarginVerdict
from runner_compare.statistics.floor_effects import LIMIT

UNDECIDED = "undecided"
ENDS = ("at_worst", "at_best")
LEGEND = (
    "Without limit: if answers that were cut off are wrong … right (those of the baseline the reverse), with "
    "an interval around both ends. Only what both ends show is a finding: Holm is that of the larger p."
)


def finding_of(decision: Decision) -> str:
    """Return the finding of a comparison for people: where cut-off answers decide it, it is
    undecided."""
    if decision.hinges_on_cut_off and decision.finding is Finding.open:
        return UNDECIDED
    return str(decision.finding)


def sentence_of_ends(decision: Decision) -> str:
    """Say whether what is found holds whatever was cut off; empty if nothing was cut off, or
    nothing is found."""
    if decision.ends is None:
        return render_notes(decision.unplanned) if decision.hinges_on_cut_off else ""
    many, ends = _how_many(decision), _from_to(decision)
    if not decision.hinges_on_cut_off:
        if decision.is_open:
            return ""
        return f"whatever the cut-off answers ({many}) would have been: Δ {ends}"
    return (
        f"{_as_counted(decision)} as counted, but cut-off answers decide it ({many}): right or "
        f"wrong, they make Δ {ends}; give it a larger {LIMIT}"
    )


def _as_counted(decision: Decision) -> str:
    was = decision.as_counted
    assert was is not None
    if was.verdict not in (None, MarginVerdict.undecided, decision.verdict):
        return verdict_words(was.verdict, margin_words(was))
    return str(was.finding)


def _how_many(decision: Decision) -> str:
    """Return how many answers of each side were cut off: `12 of 200 here, 3 of 200 in the
    baseline`."""
    each = decision.counts.get("samples") or 1
    sides = zip(decision.cut_off, (decision.n, decision.baseline_n), ("here", "in the baseline"), strict=True)
    return ", ".join(f"{cut:,} of {counted(n * each, 'answer')} {where}" for cut, n, where in sides if cut)


def _from_to(decision: Decision) -> str:
    return f"{ends_of(decision)} {unit_of(decision)}"


def ends_of(decision: Decision) -> str:
    """Return the differences at both ends, with the interval around both."""
    if decision.ends is None:
        return value_of(decision)
    worst, best = decision.ends
    at_worst, at_best, low, high = written_interval(decision, worst.value, best.value)
    return f"{at_worst} … {at_best} [{low}, {high}]"


def ends_record(decision: Decision) -> dict[str, Any]:
    """Return both ends of a comparison as plain data; nothing if no answer was cut off."""
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
            **{name: _end_record(end) for name, end in zip(ENDS, decision.ends, strict=True)},
        }
    }


def _end_record(decision: Decision) -> dict[str, Any]:
    ends = {"difference": decision.value, "difference_low": decision.low, "difference_high": decision.high}
    return ends | {
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
        "verdict": decision.verdict,
    }


def flat_ends(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return both ends of a comparison for a sheet: `difference_at_worst` beside `difference`, and
    so on."""
    flat = {f"without_limit_{key}": value for key, value in record.items() if not isinstance(value, dict)}
    return flat | {
        f"{key}_{end}": value for end in ENDS if end in record for key, value in record[end].items()
    }


def bounds_of(row: TableRow) -> str:
    """Return a row's accuracy without a limit of tokens: if all that was cut off is wrong … right,
    and its interval."""
    bounds = row.run.bounds
    if bounds is None:
        return ""
    at_worst, at_best, low, high = (100 * share for share in bounds)
    return f"{at_worst:.1f} … {at_best:.1f} % [{low:.1f}, {high:.1f}]"
