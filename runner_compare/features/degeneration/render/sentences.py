"""Formats sentences on degenerate answers."""

from __future__ import annotations

from runner_base import Column, ColumnUse
from runner_compare.features.degeneration.compute import TableDegeneration, compute_half_loop_words
from runner_compare.model.data import ABSENT, Table
from runner_compare.model.question_metrics import DEGENERATE
from runner_compare.render.effects import format_effect_interval_name, format_p_value
from runner_compare.render.labels import format_row_and_baseline_names
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics import Decision, Finding


def format_degeneration_sentences(table: Table, is_short: bool = False) -> list[str]:
    """Return a sentence for each comparison; the short form has significant differences only."""
    effects = table.get_section_data(TableDegeneration).effects
    return [
        f"{format_row_and_baseline_names(row, table.keys)}: {_format_degeneration_difference(decision, is_short)}"
        for row in table.rows
        if (decision := effects.get(row.run.run_id)) is not None
        and not (is_short and decision.finding is Finding.open)
    ]


def build_median_loop_start_column(table: Table) -> Column | None:
    """Return the column with the words by which half of the answers loop. None unless the table compares loops."""
    starts = table.get_section_data(TableDegeneration).loop_starts
    if not all(row.run.number == DEGENERATE for row in table.rows):
        return None
    words = [compute_half_loop_words(starts.get(row.run.run_id, ())) for row in table.rows]
    cells = [ABSENT if number is None else f"{number:,}" for number in words]
    return Column("half loop\nby word", cells, use=ColumnUse.result) if any(words) else None


def _format_degeneration_difference(decision: Decision, is_short: bool) -> str:
    value, (low, high) = -decision.value, (-decision.simultaneous_high, -decision.simultaneous_low)
    points = [format_percentage_points(number) for number in (value, low, high)]
    what = {Finding.worse: "more answers degenerate", Finding.better: "fewer answers degenerate"}.get(
        decision.finding, "no difference shown in degenerate answers"
    )
    text = f"{what}, {points[0]} points [{points[1]}, {points[2]}]"
    if is_short:
        return f"{text} (loops, other scripts, broken characters, empty answers)."
    return f"{text}, {format_effect_interval_name(decision)}, Holm {format_p_value(decision.p_holm)}"


def degeneration_record(decision: Decision) -> dict[str, object]:
    return {
        "difference": -decision.value,
        "simultaneous_low": -decision.simultaneous_high,
        "simultaneous_high": -decision.simultaneous_low,
        "p": decision.p,
        "p_holm": decision.p_holm,
        "questions": decision.n,
        "finding": decision.finding,
    }
