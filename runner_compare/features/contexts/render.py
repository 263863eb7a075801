"""Texts and tables on the context length up to which a model predicts the same tokens better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, ColumnUse, Likelihood
from runner_compare.features.contexts.compute import TableContextEffects
from runner_compare.features.positions.render import TITLE as POSITIONS_TITLE
from runner_compare.features.positions.render import position_table_rows
from runner_compare.metrics.likelihoods import GAIN, KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.columns import naming_columns_of_rows
from runner_compare.render.token_metrics import format_metric
from runner_compare.statistics import Effect
from runner_compare.statistics.context_gains import (
    CELL,
    ContextStep,
    context_curves,
    context_metrics,
    leading_helpful_steps,
    list_context_lengths,
    list_context_steps,
)
from runner_compare.statistics.likelihoods import likelihood_metrics
from runner_compare.statistics.position_loss import position_curves, position_metrics
from runner_compare.statistics.ratios import MIN_TEXTS

FACT = "context"  # the line of a job's table that says up to how much context helps
AXIS = "tokens of context before the scored ones"
TITLE = "the same tokens after so much context, with 95 % intervals over texts"
LEGEND = (
    "More context helps up to N tokens: each context is tested against the next shorter one on the same documents. The "
    "first step without a gain at 5 % ends it, so a run's sentence claims too much in at most 5 % of cases. The "
    "differences to the baseline by context decide nothing; the finding is about the longest context."
)


def context_sentence(metrics: Mapping[str, float]) -> str:
    """Return a sentence on a job's losses by context length; "" with fewer than two context lengths."""
    lengths = list_context_lengths(metrics)
    if len(lengths) < 2:
        return ""
    texts = int(metrics[f"n/{CELL}{lengths[0]}"])
    steps = list_context_steps(metrics)
    if not steps:
        return f"too few texts to test whether more context helps: {texts}, at least {MIN_TEXTS}"
    helpful = leading_helpful_steps(steps)
    rest = steps[len(helpful) :]
    if not helpful:
        found = "more context hurts" if rest[0].hurts else "no gain from more context is shown"
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
    """Metrics, tables, curves and facts about scored texts, for a job's result."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def text_records(likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]) -> TextRecords:
    """Compute a job's records from the likelihoods of texts or choices; empty without texts."""
    if not likelihoods:
        return TextRecords()
    by_context, by_position = (
        context_metrics(likelihoods, cluster_by_unit),
        position_metrics(likelihoods, cluster_by_unit),
    )
    tables = {TITLE: context_table_rows(by_context), POSITIONS_TITLE: position_table_rows(by_position)}
    sentence = context_sentence(by_context)
    return TextRecords(
        likelihood_metrics(likelihoods, cluster_by_unit) | by_context | by_position,
        {title: rows for title, rows in tables.items() if rows},
        context_curves(by_context) | position_curves(by_position),
        {FACT: sentence} if sentence else {},
    )


def _format_cell(run: Run, key: str, number_format: str, length: int) -> str:
    return format_metric(run.metrics, key, number_format.format, "", f"/{CELL}{length}") or ABSENT


def _format_loss_difference(effect: Effect | None) -> str:
    if effect is None:
        return ABSENT
    value, low, high = (f"{-nats:+.4f}".replace("-", "−") for nats in (effect.value, effect.high, effect.low))
    return f"{value} [{low}, {high}]"


def context_table_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a job's table of context lengths, one line per length."""
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


def context_tables(table: Table) -> dict[str, list[Column]]:
    """Return the table of context lengths of all rows, one line per length."""
    lines = [(row, length) for row in table.rows for length in list_context_lengths(row.run.metrics)]
    if not lines:
        return {}
    columns = naming_columns_of_rows(table, [row for row, _ in lines])
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
