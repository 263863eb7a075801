"""Formats loss, divergence and agreement by generated position as text and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_base import Column, ColumnUse
from runner_base.generated_positions import FIRST_TOKENS
from runner_compare.features.answer_positions.compute import Growth, TableGrowth, has_divergence_by_position
from runner_compare.metrics.likelihoods import AGREEMENT, KL, LOSS
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.labels import format_row_name
from runner_compare.render.token_metrics import format_metric
from runner_compare.statistics import Decision, Finding
from runner_compare.statistics.answer_positions import CELL, START_TOKENS, list_generated_positions
from runner_compare.statistics.ratios import MIN_TEXTS

AXIS = "generated position (in bins)"
TITLE = "answers by generated position, with 95 % intervals over answers"
SHORT_TITLE = "KL by generated token, nats/token"
LEGEND = (
    f"KL growth: the KL of a bin minus the KL of the first {START_TOKENS} tokens of the same answers, in nats/token. "
    f"The intervals are simultaneous over all bins and rows. A test needs {MIN_TEXTS} answers."
)
HEADS = {
    LOSS: ("loss\nnats/token", "{:.4f}"),
    KL: ("KL\nnats/token", "{:.3g}"),
    AGREEMENT: ("top-1\nagrees", "{:.1%}"),
}


def format_generated_position_range(first: int) -> str:
    """Format the range of positions in a bin, e.g. `16–63`."""
    later = [position for position in FIRST_TOKENS if position > first]
    return f"{first:,}–{later[0] - 1:,}" if later else f"{first:,}+"


def build_rows_by_generated_position(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for first in list_generated_positions(metrics):
        cell = f"/{CELL}{first}"
        line: dict[str, Any] = {
            "generated tokens": format_generated_position_range(first),
            "answers": int(metrics[f"n{cell}"]),
            "tokens": int(metrics[f"scored_tokens{cell}"]),
        }
        for key, (head, form) in HEADS.items():
            if f"{key}{cell}" in metrics:
                line[head.replace("\n", " ")] = format_metric(metrics, key, form.format, "", cell)
        lines.append(line)
    return lines


def build_answer_position_tables(table: Table) -> dict[str, list[Column]]:
    """Return a table with one line per run and bin."""
    lines = [(row, first) for row in table.rows for first in list_generated_positions(row.run.metrics)]
    if not lines:
        return {}
    columns = build_row_name_columns_for(table, [row for row, _ in lines])
    ranges = [format_generated_position_range(first) for _, first in lines]
    columns.append(Column("generated\ntokens", ranges, use=ColumnUse.setting))
    counts = [f"{row.run.metrics[f'n/{CELL}{first}']:,.0f}" for row, first in lines]
    columns.append(Column("answers", counts, use=ColumnUse.result))
    for key, (head, form) in HEADS.items():
        cells = [
            format_metric(row.run.metrics, key, form.format, "", f"/{CELL}{first}") or ABSENT
            for row, first in lines
        ]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=ColumnUse.more if key == LOSS else ColumnUse.result))
    by_run = table.get_section_data(TableGrowth).by_run
    if by_run:
        decisions = [by_run.get(row.run.run_id, Growth({})).decisions.get(first) for row, first in lines]
        columns.append(
            Column("KL growth", [_format_kl_growth(decision) for decision in decisions], use=ColumnUse.result)
        )
    return {TITLE: columns}


def build_divergence_by_position_tables(table: Table) -> dict[str, list[Column]]:
    """Return a table with one line per run that has a divergence, and one column per bin."""
    rows = [row for row in table.rows if has_divergence_by_position(row.run)]
    if not rows:
        return {}
    columns = build_row_name_columns_for(table, rows)
    for first in sorted({first for row in rows for first in list_generated_positions(row.run.metrics)}):
        key = f"{KL}/{CELL}{first}"
        cells = [f"{row.run.metrics[key]:.3g}" if key in row.run.metrics else ABSENT for row in rows]
        columns.append(Column(format_generated_position_range(first), cells, use=ColumnUse.result))
    by_run = table.get_section_data(TableGrowth).by_run
    starts = [by_run.get(row.run.run_id, Growth({})).first_position for row in rows]
    cells = [ABSENT if start is None else f"{start:,}" for start in starts]
    columns.append(Column("larger\nfrom", cells, use=ColumnUse.result))
    return {SHORT_TITLE: columns}


def _format_kl_growth(decision: Decision | None) -> str:
    if decision is None:
        return ABSENT
    low, high = -decision.simultaneous_high, -decision.simultaneous_low
    return " ".join([_format_nats(-decision.value), f"[{_format_nats(low)}, {_format_nats(high)}]"])


def _format_nats(nats: float) -> str:
    return f"{nats + 0.0:+.3g}".replace("-", "−")


def format_kl_growth_sentences(table: Table, is_short: bool = False) -> list[str]:
    """Return a sentence for each run with a divergence; the short form has growing divergences only."""
    by_run = table.get_section_data(TableGrowth).by_run
    sentences = []
    for row in table.rows:
        if not has_divergence_by_position(row.run):
            continue
        growth = by_run.get(row.run.run_id, Growth({}))
        if is_short and growth.first_position is None:
            continue
        sentences.append(f"{format_row_name(row, table.keys)}: {_format_kl_growth_finding(row, growth)}")
    return sentences


def _format_kl_growth_finding(row: TableRow, growth: Growth) -> str:
    decisions = growth.decisions
    if not decisions:
        return f"no test of KL by position: it needs {MIN_TEXTS} answers with more than {START_TOKENS} tokens"
    last = format_generated_position_range(max(decisions))
    first = growth.first_position
    if first is None:
        has_some = any(decision.finding is Finding.worse for decision in decisions.values())
        where = "in some ranges of positions, but not in the last one" if has_some else "at no later position"
        return f"KL is significantly larger than at the start {where} (last range tested: tokens {last})"
    start_kl, end_kl = (_read_kl(row, position) for position in (0, max(decisions)))
    text = f"from generated token {first:,} on, KL is larger than at the start"
    return f"{text} ({end_kl:.3g} nats/token at tokens {last}, {start_kl:.3g} at the first {FIRST_TOKENS[1]})"


def _read_kl(row: TableRow, first: int) -> float:
    return row.run.metrics[f"{KL}/{CELL}{first}"]


def growth_record(growth: Growth) -> dict[str, Any]:
    return {
        "kl_larger_from": growth.first_position,
        "bins": [
            {
                "first_token": first,
                "kl_growth": -decision.value,
                "simultaneous_low": -decision.simultaneous_high,
                "simultaneous_high": -decision.simultaneous_low,
                "p_holm": decision.p_holm,
                "answers": decision.n,
            }
            for first, decision in sorted(growth.decisions.items())
        ],
    }
