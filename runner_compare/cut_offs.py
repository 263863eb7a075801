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
from runner_compare.effect_words import margin_words, quantity, unit_of, value_of
from runner_compare.statistics import Decision, Finding, MarginVerdict
from runner_compare.statistics.floor_effects import LIMIT
from runner_compare.statistics.margins import verdict_words

UNDECIDED = "undecided"
ENDS = ("at_worst", "at_best")


def finding_of(it: Decision) -> str:
    """Return the finding of a comparison for people: where cut-off answers decide it, it is
    undecided."""
    return UNDECIDED if it.hinges_on_cut_off and it.finding is Finding.open else str(it.finding)


def sentence_of_ends(it: Decision) -> str:
    """Say whether what is found holds whatever was cut off; empty if nothing was cut off, or
    nothing is found."""
    if it.ends is None:
        return it.unplanned * it.hinges_on_cut_off
    if not it.hinges_on_cut_off:
        return (
            ""
            if is_open(it)
            else f"whatever the cut-off answers ({_how_many(it)}) would have been: Δ {_from_to(it)}"
        )
    return (
        f"{_as_counted(it)} as counted, but cut-off answers decide it ({_how_many(it)}): right or wrong, they make Δ "
        f"{_from_to(it)}; give it a larger {LIMIT}"
    )


def is_open(it: Decision) -> bool:
    """Whether neither a difference nor anything about a margin is shown."""
    return it.finding is Finding.open and it.verdict in (None, MarginVerdict.undecided)


def _as_counted(it: Decision) -> str:
    was = it.as_counted
    assert was is not None
    if was.verdict not in (None, MarginVerdict.undecided, it.verdict):
        return verdict_words(was.verdict, margin_words(was))
    return str(was.finding)


def _how_many(it: Decision) -> str:
    """Return how many answers of each side were cut off: `12 of 200 here, 3 of 200 in the
    baseline`."""
    each = it.counts.get("samples") or 1
    sides = zip(it.cut_off, (it.n, it.baseline_n), ("here", "in the baseline"), strict=True)
    return ", ".join(
        f"{cut:,} of {counted(n * each, 'answer')} {where}" for cut, n, where in sides if cut
    )


def _from_to(it: Decision) -> str:
    return f"{ends_of(it)} {unit_of(it)}"


def ends_of(it: Decision) -> str:
    """Return the differences at both ends, with the interval around both."""
    if it.ends is None:
        return value_of(it)
    low, high = it.ends
    write = quantity(it).write
    return f"{write(low.value)} … {write(high.value)} [{write(low.low)}, {write(high.high)}]"


def ends_record(it: Decision) -> dict[str, Any]:
    """Return both ends of a comparison as plain data; nothing if no answer was cut off."""
    was = it.as_counted
    if it.ends is None or was is None:
        return {}
    return {
        "without_limit": {
            "cut_off": it.cut_off[0],
            "baseline_cut_off": it.cut_off[1],
            "decides": it.hinges_on_cut_off,
            "finding_as_counted": was.finding,
            "verdict_as_counted": was.verdict,
            "p_holm_as_counted": was.p_holm,
            **{name: _end_record(end) for name, end in zip(ENDS, it.ends, strict=True)},
        }
    }


def _end_record(it: Decision) -> dict[str, Any]:
    ends = {"difference": it.value, "difference_low": it.low, "difference_high": it.high}
    return ends | {"p": it.p, "p_holm": it.p_holm, "finding": it.finding, "verdict": it.verdict}


def flat_ends(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return both ends of a comparison for a sheet: `difference_at_worst` beside `difference`, and
    so on."""
    flat = {
        f"without_limit_{key}": value
        for key, value in record.items()
        if not isinstance(value, dict)
    }
    return flat | {
        f"{key}_{end}": value for end in ENDS if end in record for key, value in record[end].items()
    }
