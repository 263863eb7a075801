"""Formats text about recall from long texts, for reports of jobs and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_compare.features.recall.compute import CellRecall, RecallFindings
from runner_compare.model.data import ABSENT
from runner_compare.render.effects import format_p_value
from runner_compare.render.labels import format_rounded_count
from runner_compare.render.margins import UNDECIDED, format_margin_points
from runner_compare.statistics.effective_length import EffectiveLength

if TYPE_CHECKING:
    from runner_compare.statistics.lost_depths import LostDepths

DEPTH_SCALE = "0: start of the text, 1: end"
NEAR_ZERO = 0.35  # a recall whose interval is below
NOT_SHOWN = "not shown"  # no test shows a loss
IN_SEVERAL_PLACES = "several"  # depths, of what is asked for


def format_percent(fraction: float) -> str:
    """Format a recall in percent without unit for a table, e.g. `97`."""
    return f"{100 * fraction:.0f}"


def format_reached(effective_length: EffectiveLength | None) -> str:
    """Format the lower bound of an effective context length for a table cell."""
    return ABSENT if effective_length is None else f"{effective_length.at_least:,}"


def format_shortest_length_losing_recall(effective_length: EffectiveLength | None) -> str:
    """Format the shortest text length with a significant recall loss, for a table cell."""
    if effective_length is None:
        return ABSENT
    lost = effective_length.first_lost_length
    return NOT_SHOWN if lost is None else f"{lost:,}"


def describe_effective_context_length(effective_length: EffectiveLength) -> str:
    """Describe an effective length, e.g. `at least 4,096 tokens, below 8,192 tokens`."""
    if effective_length.reached == len(effective_length.lengths) - 1:
        return f"at least {effective_length.at_least:,} tokens, the longest tested length"
    if effective_length.reached == 0 and effective_length.first_lost_length is None:
        return (
            f"{UNDECIDED} between {effective_length.lengths[0]:,} and {effective_length.lengths[-1]:,} tokens"
        )
    if effective_length.reached == 0 and effective_length.first_lost_length == effective_length.lengths[1]:
        return (
            f"less than {effective_length.first_lost_length:,} tokens: recall is lower than at "
            f"{effective_length.at_least:,} tokens, the shortest tested length"
        )
    parts = []
    if effective_length.reached > 0:
        parts.append(f"at least {effective_length.at_least:,} tokens")
    if effective_length.first_lost_length is not None:
        parts.append(f"below {effective_length.first_lost_length:,} tokens")
    if effective_length.undecided_lengths:
        parts.append(
            f"not decided at {', '.join(f'{length:,}' for length in effective_length.undecided_lengths)}"
        )
    return ", ".join(parts)


def format_effective_context_length_sentence(findings: RecallFindings) -> str:
    """Return a sentence on the effective context length, or on the reason why it is unknown."""
    lengths, margin = findings.length_recalls, format_margin_points(findings.margin)
    shortest = lengths[0]
    interval = f"{100 * shortest.share:.1f} % [{100 * shortest.low:.1f}, {100 * shortest.high:.1f}]"
    if findings.is_too_low:
        cut_off = f", {shortest.cut_off} of {shortest.answers} answers cut off" if shortest.cut_off else ""
        head = "recall at the shortest length is not significantly above the margin"
        if shortest.high < NEAR_ZERO:
            head = "recall is near zero even at the shortest length"
        return (
            f"{head}: {interval} at {shortest.length:,} tokens{cut_off}. A loss of {margin} cannot "
            "be detected, so the effective length is unknown"
        )
    found = findings.effective_length
    if found is None:
        what = "only one length was tested" if len(lengths) == 1 else "no question was asked at every length"
        return f"no effective length: {what}"
    at_shortest = f"the recall at {shortest.length:,} tokens ({interval})"
    texts = f"over {findings.num_haystacks} texts" if findings.is_clustered_by_haystack else "in these texts"
    reached = f"effective length {texts}, with a loss of at most {margin} compared with {at_shortest}"
    sentence = f"{reached}: {describe_effective_context_length(found)}"
    if not found.undecided_lengths:
        return sentence
    first = lengths[found.reached + 1]
    units = "texts" if findings.is_clustered_by_haystack else "questions"
    return (
        f"{sentence}. Some lengths are {UNDECIDED} with {first.questions} {units} per length. "
        f"{_format_needed_sample_size(findings)}"
    )


def _format_needed_sample_size(findings: RecallFindings) -> str:
    needed = format_rounded_count(findings.units_needed_per_context_length)
    units = (
        "texts per length (task.num_texts)" if findings.is_clustered_by_haystack else "questions per length"
    )
    return f"Use at least {needed} {units}."


def explain_undecided_effective_context_length(findings: RecallFindings) -> str:
    """Explain why the effective length is unknown or undecided. Empty if it is decided."""
    found = findings.effective_length
    if findings.is_too_low:
        return "the effective length is unknown, because recall is too low even at the shortest length."
    if found is None or not found.undecided_lengths:
        return ""
    *shorter, longest = (f"{length:,}" for length in found.undecided_lengths)
    lengths = f"{', '.join(shorter)} or {longest}" if shorter else longest
    needed = _format_needed_sample_size(findings)
    return f"no test shows whether the effective length reaches {lengths} tokens. {needed}"


def format_short_depth_recall_loss_sentences(findings: RecallFindings) -> list[str]:
    """Return a sentence that lists the text lengths and depths with significantly lower recall; []
    if none.
    """
    shown = [lost for lost in findings.lost_depths if lost.is_significant]
    places = [f"at {_name_depths(lost)} in {lost.length:,} tokens" for lost in shown]
    return [f"recall depends on the needle's depth ({DEPTH_SCALE}). It is lower {', '.join(places)}."] * bool(
        places
    )


def format_depth_recall_loss_sentences(findings: RecallFindings) -> list[str]:
    """Return sentences on depths with significantly lower recall; [] if none."""
    shown = [lost for lost in findings.lost_depths if lost.is_significant]
    if not shown:
        return []
    parts = [describe_depths_with_recall_loss(lost) for lost in shown]
    return [
        f"recall depends on the needle's depth ({DEPTH_SCALE}): {'; '.join(parts)}. "
        "p is adjusted for all depths and lengths."
    ]


def describe_depths_with_recall_loss(lost_depths: LostDepths) -> str:
    """Describe the depths at which recall is lower than at other depths, for texts of one length."""
    shares = f"{format_percent(lost_depths.recall)} %, elsewhere {format_percent(lost_depths.rest)} %"
    p = f"p={format_p_value(lost_depths.p)}".replace("=<", "<")
    return f"in texts of {lost_depths.length:,} tokens, recall is lower at {_name_depths(lost_depths)} ({shares}, {p})"


def _name_depths(lost_depths: LostDepths) -> str:
    if lost_depths.first == lost_depths.last:
        return f"depth {lost_depths.first:g}"
    return f"depths {lost_depths.first:g} to {lost_depths.last:g}"


def build_recall_by_depth_table(findings: RecallFindings) -> list[dict[str, Any]]:
    """Return a table of recall in percent, with one line per text length and one column per depth."""
    depths: list[tuple[str, float | None]] = [(f"{depth:g}", depth) for depth in findings.depths]
    if any(findings.recall_at(length.length, None) for length in findings.length_recalls):
        depths.append((IN_SEVERAL_PLACES, None))
    return [
        {
            "tokens": length.length,
            **{head: recall_percent(findings.recall_at(length.length, depth)) for head, depth in depths},
            "all": round(100 * length.share),
            "low": round(100 * length.low),
            "high": round(100 * length.high),
            "answers": length.answers,
        }
        for length in findings.length_recalls
    ]


def recall_percent(cell: CellRecall | None) -> int | None:
    return None if cell is None else round(100 * cell.accuracy)


def format_cell(cell: CellRecall | None) -> str:
    return ABSENT if cell is None else format_percent(cell.accuracy)


def build_effective_length_rows(findings: RecallFindings) -> list[dict[str, Any]]:
    """Return a table of effective context lengths by kind of question; [] if there is only one kind."""
    lengths = [length.length for length in findings.length_recalls]
    rows = []
    for kind, found in findings.effective_length_by_question_kind.items():
        row: dict[str, Any] = {
            "kind": kind,
            "reaches": found and found.at_least,
            "less than": found and found.first_lost_length,
        }
        for length in lengths:
            row[f"{length:,}"] = recall_percent(findings.recall_of_kind(kind, length))
        rows.append(row)
    return rows


def recall_record(findings: RecallFindings) -> dict[str, Any]:
    return {
        "margin": findings.margin,
        "texts": findings.num_haystacks,
        "is_over_texts": findings.is_clustered_by_haystack,
        "effective_length": build_effective_length_record(findings.effective_length),
        "kinds": {
            kind: build_effective_length_record(found)
            for kind, found in findings.effective_length_by_question_kind.items()
        },
        "lengths": [
            {
                "tokens": length.length,
                "answers": length.answers,
                "questions": length.questions,
                "recall": length.share,
                "recall_low": length.low,
                "recall_high": length.high,
                "cut_off": length.cut_off,
                "depths": [
                    {"depth": depth, "answers": cell.answers, "recall": cell.accuracy}
                    for depth in (*findings.depths, None)
                    if (cell := findings.recall_at(length.length, depth)) is not None
                ],
            }
            for length in findings.length_recalls
        ],
        "lost_depths": [
            {
                "tokens": lost.length,
                "first": lost.first,
                "last": lost.last,
                "recall": lost.recall,
                "recall_elsewhere": lost.rest,
                "p": lost.p,
                "is_shown": lost.is_significant,
            }
            for lost in findings.lost_depths
        ],
    }


def build_effective_length_record(effective_length: EffectiveLength | None) -> dict[str, Any] | None:
    if effective_length is None:
        return None
    return {
        "tokens": effective_length.tokens,
        "at_least": effective_length.at_least,
        "below": effective_length.first_lost_length,
        "undecided": [*effective_length.undecided_lengths],
        "words": describe_effective_context_length(effective_length),
    }
