"""Renders thinking tokens and the cost per correct answer as a table, sentences and JSON data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner_base import Column, ColumnUse
from runner_compare.features.thinking.compute import (
    THINKING,
    TableThinking,
    compute_mean_tokens_per_question,
    compute_usage_costs_per_correct_answer,
    list_rows_with_thinking_comparison,
)
from runner_compare.features.token_costs.render import build_estimate_record
from runner_compare.metrics import BY_ANSWERS, find_metric
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import build_row_name_columns, format_accuracy
from runner_compare.render.effects import format_effect_interval_name, format_p_value
from runner_compare.render.labels import format_row_and_baseline_names
from runner_compare.statistics import Decision, Finding
from runner_compare.statistics.token_costs import Estimate

MAX_ROWS = 8  # with a finding that the sentence names
TITLE = "thinking tokens, and cost per correct answer in tokens and seconds (total / correct answers)"


def format_thinking_token_sentence(table: Table) -> str:
    compared = list_rows_with_thinking_comparison(table)
    found = [(row, effect) for row, effect in compared if effect.finding is not Finding.open]
    still_open = [(row, effect) for row, effect in compared if effect.finding is Finding.open]
    parts = [
        f"{format_row_and_baseline_names(row, table.keys)}: {_format_difference(effect)}"
        for row, effect in found[:MAX_ROWS]
    ]
    if len(found) > MAX_ROWS:
        parts.append(f"{len(found) - MAX_ROWS} more differ")
    if still_open:
        row, largest = max(still_open, key=lambda pair: abs(pair[1].value))
        several = f" in {len(still_open)} comparisons, the largest" if len(still_open) > 1 else ""
        parts.append(
            f"{Finding.open}{several}: {format_row_and_baseline_names(row, table.keys)} ({_format_difference(largest)})"
        )
    return f"thinking tokens per answer: {'; '.join(parts)}"


def format_thinking_length_sentences(table: Table) -> list[str]:
    """Return a sentence for each run with significantly more or fewer thinking tokens than the baseline."""
    thinks = {Finding.larger: "longer", Finding.smaller: "shorter"}
    return [
        (
            f"{format_row_and_baseline_names(row, table.keys)}: thinks {thinks[effect.finding]}, "
            f"by {abs(effect.value):,.0f} tokens per answer."
        )
        for row, effect in list_rows_with_thinking_comparison(table)[:MAX_ROWS]
        if effect.finding in thinks
    ]


def _format_difference(decision: Decision) -> str:
    mean = decision.counts["baseline_mean"]
    thinks = {Finding.larger: "thinks longer, ", Finding.smaller: "thinks shorter, "}.get(
        decision.finding, ""
    )
    share = f", {100 * decision.value / mean:+.0f} % of {mean:,.1f}".replace("-", "−") if mean else ""
    value, low, high = (
        f"{end:+,.1f}".replace("-0.0", "+0.0").replace("+0.0", "0.0").replace("-", "−")
        for end in (decision.value, *decision.simultaneous_interval)
    )
    return (
        f"{thinks}Δ {value}{share}, {format_effect_interval_name(decision)} [{low}, "
        f"{high}], Holm {format_p_value(decision.p_holm)}"
    )


def thinking_record(decision: Decision) -> dict[str, Any]:
    return {
        "mean": decision.counts["mean"],
        "baseline_mean": decision.counts["baseline_mean"],
        "difference": decision.value,
        "difference_low": decision.low,
        "difference_high": decision.high,
        "simultaneous_low": decision.simultaneous_low,
        "simultaneous_high": decision.simultaneous_high,
        "questions": decision.counts["questions"],
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
    }


def build_row_cost_record(table: Table, row: TableRow) -> dict[str, float | None]:
    estimates = table.get_section_data(TableThinking).right_answers.get(row.run.run_id, {})
    return build_cost_per_answer_record(compute_usage_costs_per_correct_answer(row.run), estimates)


def build_cost_per_answer_record(
    costs: Mapping[str, float], estimates: Mapping[str, Estimate]
) -> dict[str, float | None]:
    """Return costs as JSON data, with the ends of their confidence intervals if known."""
    record: dict[str, float | None] = {**costs}
    for key in costs.keys() & estimates.keys():
        record |= build_estimate_record(key, estimates[key])
    return record


def format_cost(value: float | None, estimate: Estimate | None, number_format: str) -> str:
    """Format a cost, with its confidence interval if known."""
    written = _format_optional(value, number_format)
    if estimate is None or value is None:
        return written
    return f"{written} [{estimate.low:{number_format}}, {estimate.high:{number_format}}]".replace("inf", "∞")


def build_thinking_columns(table: Table) -> list[Column]:
    rows = table.rows
    shown = [
        *build_row_name_columns(table),
        Column("accuracy", list(map(format_accuracy, rows)), use=ColumnUse.result),
        build_metric_column(rows, THINKING),
        Column(
            "tokens\n/question",
            [_format_optional(compute_mean_tokens_per_question(row.run), ",.1f") for row in rows],
            use=ColumnUse.result,
        ),
    ]
    shown += build_correct_answer_cost_columns(
        rows, table.get_section_data(TableThinking).right_answers
    ).values()
    ks = sorted({int(row.run.metrics["answers_each"]) for row in rows if "answers_each" in row.run.metrics})
    for key in BY_ANSWERS:
        shown += [build_metric_column(rows, f"{key}/{k}") for k in ks]
    return shown


def build_correct_answer_cost_columns(
    rows: Sequence[TableRow], estimates_by_run: Mapping[str, Mapping[str, Estimate]] | None = None
) -> dict[str, Column]:
    """Return a table column for each known cost per correct answer: tokens, seconds and USD.

    `estimates_by_run` has the intervals by run id.
    """
    costs = [compute_usage_costs_per_correct_answer(row.run) for row in rows]
    of_rows = [(estimates_by_run or {}).get(row.run.run_id, {}) for row in rows]
    return {
        key: Column(
            f"{head} /right\nanswer",
            [
                format_cost(cost.get(key), ends.get(key), form)
                for cost, ends in zip(costs, of_rows, strict=True)
            ],
            use=ColumnUse.result,
        )
        for key, head, form in (("tokens", "tokens", ",.1f"), ("seconds", "s", ".3g"), ("usd", "USD", ".3g"))
        if any(key in cost for cost in costs)
    }


def build_metric_column(rows: Sequence[TableRow], key: str) -> Column:
    about = find_metric(key)
    cells = [
        ABSENT if key not in row.run.metrics else about.format_value(row.run.metrics[key]) for row in rows
    ]
    return Column(about.head, cells, use=ColumnUse.result)


def _format_optional(value: float | None, number_format: str) -> str:
    return ABSENT if value is None else format(value, number_format)
