"""Says up to how much context a model predicts the same tokens better: on the card of a job, and in
a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, Likelihood, Use
from runner_compare.features.contexts.compute import ContextsOfTable
from runner_compare.features.positions.render import TITLE as POSITIONS_TITLE
from runner_compare.features.positions.render import position_table
from runner_compare.metrics.likelihoods import GAIN, KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.columns import naming_of
from runner_compare.render.token_figures import figure_in_words
from runner_compare.statistics import Effect
from runner_compare.statistics.contexts import (
    CELL,
    Step,
    context_figures,
    context_series,
    contexts_of,
    helping,
    steps_of,
)
from runner_compare.statistics.likelihoods import figures
from runner_compare.statistics.positions import position_figures, position_series
from runner_compare.statistics.ratios import MIN_TEXTS

FACT = "context"  # the line of a job's table that says up to how much context helps
AXIS = "tokens of context before the scored ones"
TITLE = "the same tokens after so much context, with 95 % intervals over texts"
LEGEND = (
    "More context helps up to N tokens: each context against the next shorter one by the same texts, from the shortest "
    "on; the first step without a gain at 5 % ends it, so each row's sentence claims too much in at most 5 % of cases. "
    "The differences to the baseline by context have an interval each, and decide nothing: the finding is about the "
    "longest context."
)


def context_sentence(figures: Mapping[str, float]) -> str:
    """Return the sentence about a job's contexts; empty if it has fewer than two."""
    lengths = contexts_of(figures)
    if len(lengths) < 2:
        return ""
    texts = int(figures[f"n/{CELL}{lengths[0]}"])
    steps = steps_of(figures)
    if not steps:
        return f"too few texts to test whether more context helps: {texts}, at least {MIN_TEXTS}"
    helpful = helping(steps)
    rest = steps[len(helpful) :]
    if not helpful:
        found = "more context hurts" if rest[0].hurts else "no gain from more context is shown"
        return f"{found} ({_change(rest[0])}, over {texts} texts)"
    last = helpful[-1]
    found = f"more context helps up to {last.longer:,} tokens ({_change(last)}, over {texts} texts)"
    if not rest:
        return f"{found}, the longest that was tried"
    beyond = "more hurts" if rest[0].hurts else "of more no gain is shown"
    return f"{found}; {beyond} ({_change(rest[0])})"


def _change(step: Step) -> str:
    gain, low, high = (_signed(value) for value in (step.gain, step.low, step.high))
    return f"from {step.shorter:,} to {step.longer:,}: gain {gain} nats/token, 95 % interval [{low}, {high}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


@dataclass
class OfTexts:
    """What a job records, as a result has it."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def of_texts(parts: Sequence[Likelihood], family_by_unit: Mapping[int, str | None]) -> OfTexts:
    """Return what is recorded of texts, or choices, that belong to these families; nothing of
    none."""
    if not parts:
        return OfTexts()
    by_context, by_position = (
        context_figures(parts, family_by_unit),
        position_figures(parts, family_by_unit),
    )
    tables = {TITLE: context_table(by_context), POSITIONS_TITLE: position_table(by_position)}
    sentence = context_sentence(by_context)
    return OfTexts(
        figures(parts, family_by_unit) | by_context | by_position,
        {title: rows for title, rows in tables.items() if rows},
        context_series(by_context) | position_series(by_position),
        {FACT: sentence} if sentence else {},
    )


def _cell(run: Run, key: str, form: str, length: int) -> str:
    return figure_in_words(run.metrics, key, form.format, "", f"/{CELL}{length}") or ABSENT


def _shift(effect: Effect | None) -> str:
    if effect is None:
        return ABSENT
    value, low, high = (f"{-nats:+.4f}".replace("-", "−") for nats in (effect.value, effect.high, effect.low))
    return f"{value} [{low}, {high}]"


def context_table(figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a job's table of contexts: a line for each."""
    lines: list[dict[str, Any]] = []
    for length in contexts_of(figures):
        cell = f"/{CELL}{length}"
        line: dict[str, Any] = {
            "context": f"{length:,}",
            "texts": int(figures[f"n{cell}"]),
            "loss, nats/token": figure_in_words(figures, LOSS, "{:.4f}".format, "", cell),
            "gain over the line above": figure_in_words(figures, GAIN, "{:+.4f}".format, "", cell),
        }
        if f"{KL}{cell}" in figures:
            line["KL, nats/token"] = figure_in_words(figures, KL, "{:.3g}".format, "", cell)
        lines.append(line)
    return lines


def context_tables(table: Table) -> dict[str, list[Column]]:
    """Return the table of contexts: a line for each of a row's."""
    lines = [(row, length) for row in table.rows for length in contexts_of(row.run.metrics)]
    if not lines:
        return {}
    columns = naming_of(table, [row for row, _ in lines])
    columns.append(Column("context", [f"{length:,}" for _, length in lines], use=Use.setting))
    heads = {"loss\nnats/token": (LOSS, "{:.4f}"), "gain over the\nnext shorter": (GAIN, "{:+.4f}"),
             "KL\nnats/token": (KL, "{:.3g}")}  # fmt: skip
    for head, (key, form) in heads.items():
        cells = [_cell(row.run, key, form, length) for row, length in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=Use.result))
    if effects := table.of(ContextsOfTable).effects:
        shifts = [_shift(effects.get((row.run.run_id, length))) for row, length in lines]
        columns.append(Column("loss against\nthe baseline", shifts, use=Use.result))
    return {TITLE: columns}
