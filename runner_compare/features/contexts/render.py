"""Formats losses at several context lengths as text and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, ColumnUse, Likelihood
from runner_compare.features.answer_positions.render import TITLE as GENERATED_TITLE
from runner_compare.features.answer_positions.render import build_rows_by_generated_position
from runner_compare.features.contexts.compute import TableContextEffects
from runner_compare.features.positions.render import TITLE as POSITIONS_TITLE
from runner_compare.features.positions.render import build_loss_by_position_rows
from runner_compare.metrics.likelihoods import GAIN, KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.token_metrics import format_metric
from runner_compare.statistics import Effect
from runner_compare.statistics.answer_positions import (
    compute_metrics_by_generated_position,
    generated_position_curves,
)
from runner_compare.statistics.context_gains import (
    CELL,
    ContextStep,
    compute_loss_metrics_by_context_length,
    context_curves,
    list_context_length_gains,
    list_context_lengths,
    select_helpful_context_steps,
)
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.position_loss import compute_loss_metrics_by_position, position_curves
from runner_compare.statistics.ratios import MIN_TEXTS

FACT = "context"  # the line of a job's table that says up to how much context helps
AXIS = "context length in tokens"
TITLE = "loss of the same tokens by context length, with 95 % intervals over documents"
LEGEND = (
    "More context helps up to N tokens: each context is tested against the next shorter one on the same documents. The "
    "first step without a gain at 5 % ends it, so a run's sentence claims too much in at most 5 % of cases. The "
    "differences to the baseline by context decide nothing; the finding is about the longest context."
)


def format_longer_context_gain_sentence(metrics: Mapping[str, float]) -> str:
    """Describe how far longer contexts reduce a job's loss. Empty with fewer than two context lengths."""
    lengths = list_context_lengths(metrics)
    if len(lengths) < 2:
        return ""
    texts = int(metrics[f"n/{CELL}{lengths[0]}"])
    steps = list_context_length_gains(metrics)
    if not steps:
        return f"{texts} documents are too few to test whether more context helps; {MIN_TEXTS} are needed"
    helpful = select_helpful_context_steps(steps)
    rest = steps[len(helpful) :]
    if not helpful:
        found = "more context hurts" if rest[0].hurts else "more context shows no significant gain"
        return f"{found} ({_format_step(rest[0])}, over {texts} texts)"
    last = helpful[-1]
    found = f"more context helps up to {last.longer:,} tokens ({_format_step(last)}, over {texts} texts)"
    if not rest:
        return f"{found}, the longest that was tried"
    beyond = "more hurts" if rest[0].hurts else "of more no gain is shown"
    return f"{found}; {beyond} ({_format_step(rest[0])})"


def _format_step(step: ContextStep) -> str:
    gain, low, high = (_format_signed(value) for value in (step.gain, step.low, step.high))
    return f"from {step.shorter:,} to {step.longer:,}: gain {gain} nats/token, 95 % interval [{low}, {high}]"


def _format_signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


@dataclass
class TextRecords:
    """Report data of a job that scores documents: metrics, tables, curves and facts."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def build_text_likelihood_records(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> TextRecords:
    if not likelihoods:
        return TextRecords()
    by_context, by_position = (
        compute_loss_metrics_by_context_length(likelihoods, cluster_by_unit),
        compute_loss_metrics_by_position(likelihoods, cluster_by_unit),
    )
    by_generated = compute_metrics_by_generated_position(likelihoods, cluster_by_unit)
    tables = {
        GENERATED_TITLE: build_rows_by_generated_position(by_generated),
        TITLE: build_context_length_rows(by_context),
        POSITIONS_TITLE: build_loss_by_position_rows(by_position),
    }
    sentence = format_longer_context_gain_sentence(by_context)
    return TextRecords(
        compute_likelihood_metrics(likelihoods, cluster_by_unit) | by_context | by_position | by_generated,
        {title: rows for title, rows in tables.items() if rows},
        context_curves(by_context) | position_curves(by_position) | generated_position_curves(by_generated),
        {FACT: sentence} if sentence else {},
    )


def _format_cell(run: Run, key: str, number_format: str, length: int) -> str:
    return format_metric(run.metrics, key, number_format.format, "", f"/{CELL}{length}") or ABSENT


def _format_loss_difference(effect: Effect | None) -> str:
    if effect is None:
        return ABSENT
    value, low, high = (f"{-nats:+.4f}".replace("-", "−") for nats in (effect.value, effect.high, effect.low))
    return f"{value} [{low}, {high}]"


def build_context_length_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one table row per context length, with a job's loss and the gain over the next shorter
    length.
    """
    lines: list[dict[str, Any]] = []
    for length in list_context_lengths(metrics):
        cell = f"/{CELL}{length}"
        line: dict[str, Any] = {
            "context": f"{length:,}",
            "texts": int(metrics[f"n{cell}"]),
            "loss, nats/token": format_metric(metrics, LOSS, "{:.4f}".format, "", cell),
            "gain over the line above": format_metric(metrics, GAIN, "{:+.4f}".format, "", cell),
        }
        if f"{KL}{cell}" in metrics:
            line["KL, nats/token"] = format_metric(metrics, KL, "{:.3g}".format, "", cell)
        lines.append(line)
    return lines


def build_context_length_tables(table: Table) -> dict[str, list[Column]]:
    """Return a table of loss by context length, with one line per run and length."""
    lines = [(row, length) for row in table.rows for length in list_context_lengths(row.run.metrics)]
    if not lines:
        return {}
    columns = build_row_name_columns_for(table, [row for row, _ in lines])
    columns.append(Column("context", [f"{length:,}" for _, length in lines], use=ColumnUse.setting))
    heads = {"loss\nnats/token": (LOSS, "{:.4f}"), "gain over the\nnext shorter": (GAIN, "{:+.4f}"),
             "KL\nnats/token": (KL, "{:.3g}")}  # fmt: skip
    for head, (key, form) in heads.items():
        cells = [_format_cell(row.run, key, form, length) for row, length in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=ColumnUse.result))
    if effects := table.get_section_data(TableContextEffects).effects:
        shifts = [_format_loss_difference(effects.get((row.run.run_id, length))) for row, length in lines]
        columns.append(Column("loss against\nthe baseline", shifts, use=ColumnUse.result))
    return {TITLE: columns}
