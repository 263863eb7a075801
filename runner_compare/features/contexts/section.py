"""Up to how much context the same tokens become more likely: each row's contexts, and each against
the baseline's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, Picture, Use
from runner_compare.features.contexts.render import context_sentence
from runner_compare.features.positions.pictures import loss_picture
from runner_compare.metrics.likelihoods import GAIN, KL, LOSS
from runner_compare.model.data import ABSENT, NotPaired, Run, Table, TableRow, Texts
from runner_compare.model.mean_pairs import cluster_field
from runner_compare.reader import Reader
from runner_compare.render.columns import naming_at
from runner_compare.render.labels import name_of
from runner_compare.section import Section
from runner_compare.statistics import MIN_TEXTS, Effect, figure_in_words
from runner_compare.statistics.contexts import CELL, contexts_of, gain_over
from runner_compare.statistics.likelihoods import by_family, units
from runner_compare.ways import Asked
from runner_compare.ways.likelihoods import check_pairs, text_clusters

TITLE = "the same tokens after so much context, with 95 % intervals over texts"
LEGEND = (
    "More context helps up to N tokens: each context against the next shorter one by the same texts, from the shortest "
    "on; the first step without a gain at 5 % ends it, so each row's sentence claims too much in at most 5 % of cases. "
    "The differences to the baseline by context have an interval each, and decide nothing: the finding is about the "
    "longest context."
)


@dataclass
class ContextsOfTable:
    """The differences of loss to the baseline, by run id and context."""

    effects: dict[tuple[str, int], Effect] = field(default_factory=dict)


class Contexts(Section):
    """The loss of the same tokens after several contexts."""

    def add(self, table: Table, reader: Reader) -> None:
        """Compare each row with its baseline at the contexts that both have."""
        effects = table.of(ContextsOfTable).effects
        for row in table.rows:
            if row.baseline is None or not row.effect or not contexts_of(row.run.metrics):
                continue
            try:
                effects |= _against_baseline(row.run, row.baseline.run, reader)
            except NotPaired:  # the row says why
                continue

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the table of contexts: a line for each of a row's."""
        lines = [(at, length) for at, row in enumerate(table.rows) for length in contexts_of(row.run.metrics)]
        if not lines:
            return {}
        named = naming_at(table, [at for at, _ in lines])
        named.append(Column("context", [f"{length:,}" for _, length in lines], use=Use.setting))
        figures = {"loss\nnats/token": (LOSS, "{:.4f}"), "gain over the\nnext shorter": (GAIN, "{:+.4f}"),
                   "KL\nnats/token": (KL, "{:.3g}")}  # fmt: skip
        for head, (key, form) in figures.items():
            cells = [_cell(table.rows[at].run, key, form, length) for at, length in lines]
            if any(cell != ABSENT for cell in cells):
                named.append(Column(head, cells, use=Use.result))
        effects = table.of(ContextsOfTable).effects
        if effects:
            shifts = [_shift(effects.get((table.rows[at].run.run_id, length))) for at, length in lines]
            named.append(Column("loss against\nthe baseline", shifts, use=Use.result))
        return {TITLE: named}

    def sentences(self, table: Table) -> list[str]:
        """Return up to how much context each row is helped."""
        said = [(row, context_sentence(row.run.metrics)) for row in table.rows]
        return [f"{name_of(row, table.keys)}: {sentence}" for row, sentence in said if sentence]

    def legend(self, table: Table, explain: bool) -> str:
        """Return how the contexts are tested."""
        return LEGEND if any(contexts_of(row.run.metrics) for row in table.rows) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's differences to its baseline by context."""
        records = [
            {
                "context": length,
                "loss_difference": -effect.value,
                "loss_difference_low": -effect.high,
                "loss_difference_high": -effect.low,
            }
            for (run_id, length), effect in table.of(ContextsOfTable).effects.items()
            if run_id == row.run.run_id
        ]
        return {"contexts": records} if records else {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the differences of a row in CSV, by context."""
        effects = table.of(ContextsOfTable).effects
        return {
            f"loss_difference_context_{length}": -effect.value
            for (run_id, length), effect in effects.items()
            if run_id == row.run.run_id
        }

    def figures(self, table: Table) -> list[Picture]:
        """Return the picture of the loss over the context."""
        return loss_picture(
            table, "contexts", f"/{CELL}", contexts_of, "tokens of context before the scored ones"
        )


def _against_baseline(run: Run, base: Run, reader: Reader) -> dict[tuple[str, int], Effect]:
    """Return the differences of two runs at each context that both have."""
    texts, base_texts = reader.texts(run), reader.texts(base)
    found: dict[tuple[str, int], Effect] = {}
    for length in contexts_of(run.metrics):
        own_texts, others = _after(texts, length), _after(base_texts, length)
        if len(own_texts) < MIN_TEXTS or not others:
            continue
        check_pairs(own_texts, others, Asked(keys=("task.contexts",)))
        clusters = text_clusters(own_texts, others, cluster_field(run, base))
        sides = [units([score.likelihood for score in side.values()]) for side in (own_texts, others)]
        if clusters is not None:
            sides = [by_family(side, clusters) for side in sides]
        if len(sides[0]) >= MIN_TEXTS:
            found[run.run_id, length] = gain_over(*sides).effect
    return found


def _after(texts: Texts, length: int) -> Texts:
    """Return the texts after a context, numbered anew: another number of contexts is no other
    text."""
    of_context = [score for _, score in sorted(texts.items()) if score.likelihood.context == length]
    return dict(enumerate(of_context))


def _cell(run: Run, key: str, form: str, length: int) -> str:
    return figure_in_words(run.metrics, key, form.format, "", f"/{CELL}{length}") or ABSENT


def _shift(effect: Effect | None) -> str:
    if effect is None:
        return ABSENT
    value, low, high = (f"{-nats:+.4f}".replace("-", "−") for nats in (effect.value, effect.high, effect.low))
    return f"{value} [{low}, {high}]"


SECTION = Contexts()
