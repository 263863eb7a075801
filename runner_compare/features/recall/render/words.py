"""What is said of recall in long texts: by the card of a job, and by a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_compare.features.recall.compute import CellRecall, RecallFindings
from runner_compare.model.data import ABSENT
from runner_compare.render.effects import p_value
from runner_compare.render.labels import about
from runner_compare.render.margins import points_of_margin
from runner_compare.statistics.effective_length import EffectiveLength

if TYPE_CHECKING:
    from runner_compare.statistics.lost_depths import LostDepths

NEAR_ZERO = 0.35  # a recall whose interval is below
IN_SEVERAL_PLACES = "several"  # depths, of what is asked for


def percent(share: float) -> str:
    """Return a recall as it is shown in a table: `97`."""
    return f"{100 * share:.0f}"


def reached_words(found: EffectiveLength | None) -> str:
    """Return the lower end of an effective length, as a cell."""
    return ABSENT if found is None else f"{found.at_least:,}"


def below_words(found: EffectiveLength | None) -> str:
    """Return the length that an effective length is shown to be below, as a cell."""
    return ABSENT if found is None or found.below is None else f"{found.below:,}"


def length_words(found: EffectiveLength) -> str:
    """Return what is shown of an effective length: `reaches at least 4,096 tokens, less than
    8,192`."""
    if found.reached == len(found.lengths) - 1:
        return f"reaches at least {found.at_least:,} tokens, the longest that was asked"
    if found.reached == 0 and found.below is None:
        return f"not decided between {found.lengths[0]:,} and {found.lengths[-1]:,} tokens"
    if found.reached == 0 and found.below == found.lengths[1]:
        return (
            f"less than {found.below:,} tokens: lost beyond {found.at_least:,}, the shortest that was asked"
        )
    parts = []
    if found.reached > 0:
        parts.append(f"reaches at least {found.at_least:,} tokens")
    if found.below is not None:
        parts.append(f"less than {found.below:,}{' tokens' * (not parts)}")
    if found.undecided:
        parts.append(f"not decided at {', '.join(f'{length:,}' for length in found.undecided)}")
    return ", ".join(parts)


def effective_sentence(findings: RecallFindings) -> str:
    """Return what is said of the effective length; where there is none, why."""
    lengths, margin = findings.lengths, points_of_margin(findings.margin)
    shortest = lengths[0]
    interval = f"{100 * shortest.share:.1f} % [{100 * shortest.low:.1f}, {100 * shortest.high:.1f}]"
    if findings.is_too_low:
        cut_off = f", {shortest.cut_off} of {shortest.answers} answers cut off" if shortest.cut_off else ""
        head = "recall at the shortest length is not shown to be above the margin"
        if shortest.high < NEAR_ZERO:
            head = "recall is near zero even at the shortest length"
        return (
            f"{head}: {interval} at {shortest.length:,} tokens{cut_off}. A loss of {margin} could not be seen, so "
            "nothing is said of an effective length"
        )
    found = findings.effective
    if found is None:
        what = "one length was asked" if len(lengths) == 1 else "no question is asked at all lengths"
        return f"no effective length: {what}"
    at_shortest = f"the recall at {shortest.length:,} tokens ({interval})"
    texts = f"over {findings.texts} texts" if findings.is_over_texts else "in these texts"
    reached = f"effective length {texts} within {margin} of {at_shortest}"
    sentence = f"{reached}: {length_words(found)}"
    if not found.undecided:
        return sentence
    first = lengths[found.reached + 1]
    needed = about(findings.needed)
    asked = first.answers if findings.is_over_texts else first.questions
    return f"{sentence}. {asked} questions a length are few: about {needed} would decide if nothing is lost"


def depth_sentences(findings: RecallFindings) -> list[str]:
    """Return where in the texts recall is shown to be below the rest, in one sentence; none if it
    is not."""
    shown = [lost for lost in findings.lost_depths if lost.is_shown]
    if not shown:
        return []
    parts = [depth_words(lost) for lost in shown]
    return [f"recall depends on the depth: {'; '.join(parts)}; p over all depths and lengths"]


def depth_words(lost: LostDepths) -> str:
    """Return where in texts of one length recall is below the rest."""
    at = f"depth {lost.first:g}" if lost.first == lost.last else f"depths {lost.first:g} to {lost.last:g}"
    shares = f"{percent(lost.recall)} % against {percent(lost.rest)} % elsewhere"
    p = f"p={p_value(lost.p)}".replace("=<", "<")
    return f"at {lost.length:,} tokens lower at {at} ({shares}, {p})"


def length_depth_rows(findings: RecallFindings) -> list[dict[str, Any]]:
    """Return the table of recall by length and depth, in percent: a line for each length."""
    depths: list[tuple[str, float | None]] = [(f"{depth:g}", depth) for depth in findings.depths]
    if any(findings.cell(length.length, None) for length in findings.lengths):
        depths.append((IN_SEVERAL_PLACES, None))
    return [
        {
            "tokens": length.length,
            **{head: cell_percent(findings.cell(length.length, depth)) for head, depth in depths},
            "all": round(100 * length.share),
            "low": round(100 * length.low),
            "high": round(100 * length.high),
            "answers": length.answers,
        }
        for length in findings.lengths
    ]


def cell_percent(cell: CellRecall | None) -> int | None:
    return None if cell is None else round(100 * cell.share)


def cell_words(cell: CellRecall | None) -> str:
    """Return the same as a cell of a table."""
    return ABSENT if cell is None else percent(cell.share)


def kind_rows(findings: RecallFindings) -> list[dict[str, Any]]:
    """Return the table of effective lengths by kind of question; empty if there is one kind."""
    lengths = [length.length for length in findings.lengths]
    rows = []
    for kind, found in findings.by_kind.items():
        row: dict[str, Any] = {
            "kind": kind,
            "reaches": found and found.at_least,
            "less than": found and found.below,
        }
        for length in lengths:
            row[f"{length:,}"] = cell_percent(findings.of_kind(kind, length))
        rows.append(row)
    return rows


def findings_record(findings: RecallFindings) -> dict[str, Any]:
    """Return what the answers of a run say as plain data."""
    return {
        "margin": findings.margin,
        "texts": findings.texts,
        "is_over_texts": findings.is_over_texts,
        "effective_length": length_record(findings.effective),
        "kinds": {kind: length_record(found) for kind, found in findings.by_kind.items()},
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
                    {"depth": depth, "answers": cell.answers, "recall": cell.share}
                    for depth in (*findings.depths, None)
                    if (cell := findings.cell(length.length, depth)) is not None
                ],
            }
            for length in findings.lengths
        ],
        "lost_depths": [
            {
                "tokens": lost.length,
                "first": lost.first,
                "last": lost.last,
                "recall": lost.recall,
                "recall_elsewhere": lost.rest,
                "p": lost.p,
                "is_shown": lost.is_shown,
            }
            for lost in findings.lost_depths
        ],
    }


def length_record(found: EffectiveLength | None) -> dict[str, Any] | None:
    """Return an effective length as plain data; None if there is none."""
    if found is None:
        return None
    return {
        "tokens": found.tokens,
        "at_least": found.at_least,
        "below": found.below,
        "undecided": [*found.undecided],
        "words": length_words(found),
    }
