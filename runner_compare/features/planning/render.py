"""Table with the number of questions that each comparison needs."""

from __future__ import annotations

from runner_base import Column, ColumnUse
from runner_compare.features.planning.compute import TablePlans, additional_questions
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.labels import format_count_interval, format_row_name, round_up_to_three_digits
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import ACCURACIES, effect_unit, find_quantity


def format_plan_title(table: Table) -> str:
    aim = table.get_section_data(TablePlans).aim
    sizes = aim.margins or aim.differences
    parts = []
    for measure, size in sizes.items():
        effect = next(
            (compared for row in table.rows if (compared := row.effect) and compared.measure == measure), None
        )
        if effect is not None:
            parts.append(
                f"{100 * size if find_quantity(effect) is ACCURACIES else size:g} {effect_unit(effect)}"
            )
    if not parts:
        return ""
    what = "to show no loss above" if aim.margins else "to detect a difference of"
    condition = "if neither run is better, " if aim.margins else ""
    return (
        f"questions needed in total {what} {' or '.join(parts)} with {100 * aim.power:g} % power, "
        f"{condition}at the observed rate of disagreement"
    )


def build_question_plan_columns(table: Table) -> list[Column]:
    plans = table.get_section_data(TablePlans).of_rows
    lines = [(row, plans[row.run.run_id]) for row in table.rows if row.run.run_id in plans]
    rates = [plan.disagreement for _, plan in lines]
    return [
        Column("plan", [format_row_name(row, table.keys) for row, _ in lines], False, use=ColumnUse.setting),
        Column("so far", [f"{plan.asked:,}" for _, plan in lines]),
        Column("disagree", [ABSENT if rate is None else f"{100 * rate:.1f} %" for rate in rates]),
        Column(
            "needed",
            [
                render_notes(plan.reason)
                if plan.needed is None
                else format_count_interval(plan.needed, (plan.needed_low, plan.needed_high))
                for _, plan in lines
            ],
            use=ColumnUse.result,
        ),
        Column(
            "further",
            [
                ABSENT
                if plan.needed is None
                else f"{additional_questions(round_up_to_three_digits(plan.needed), plan.asked):,}"
                for _, plan in lines
            ],
        ),
        Column("time here", [format_duration(plan.further_s) for _, plan in lines]),
    ]


def format_duration(seconds: float | None) -> str:
    """Format seconds in the largest fitting unit: 0 s, 12 s, 3.4 min, 2.1 h."""
    if seconds is None:
        return ABSENT
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "<1 s"
