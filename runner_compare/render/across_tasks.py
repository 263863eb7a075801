"""A table over several tasks: accuracy and likelihood of the same model side by side."""

from __future__ import annotations

from runner_base import Column, Use
from runner_compare.features.registry import every_section
from runner_compare.model.data import ABSENT, Table, TableRow, label
from runner_compare.model.key_rules import MODEL_KEYS
from runner_compare.render.columns import accuracy_of, measured
from runner_compare.render.effects import difference_head, difference_of
from runner_compare.section import TablesAcross

MEASURED_COLUMNS = ("kl_nats_per_token", "top_1_agreement", "model_mib", "decode_tok_per_s")


def tables_across(tables: list[Table]) -> dict[str, list[Column]]:
    """Return the columns of each table over several tasks that has something to compare, by its
    title."""
    titled = {"accuracy and likelihood": accuracy_and_likelihood(tables)}
    for section in every_section():
        if isinstance(section, TablesAcross):
            titled |= section.across(tables)
    return {title: columns for title, columns in titled.items() if columns}


def accuracy_and_likelihood(tables: list[Table]) -> list[Column]:
    """Return the columns of a table with a line for each pair of rows of one model; none without
    two pairs."""
    scored = [row for table in tables if table.scored for row in table.rows]
    likely = [row for table in tables if table.unit == "token" for row in table.rows]
    pairs = [
        (accurate, likelihood) for accurate in scored for likelihood in likelihoods_beside(accurate, likely)
    ]
    if len(pairs) < 2:
        return []
    keys = [key for table in tables if table.scored for key in table.keys]
    names = [[_word(accurate, key) for accurate, _ in pairs] for key in keys]
    return [
        *(
            Column(label(key), values, False, use=Use.setting)
            for key, values in zip(keys, names, strict=True)
        ),
        Column("accuracy", [accuracy_of(accurate) for accurate, _ in pairs], use=Use.result),
        Column(
            difference_head("points", [accurate for accurate, _ in pairs]),
            [difference_of(accurate) for accurate, _ in pairs],
            use=Use.verdict,
        ),
        Column("finding", [_finding(accurate) for accurate, _ in pairs], False, use=Use.verdict),
        Column(
            difference_head("nats/token", [likelihood for _, likelihood in pairs]),
            [difference_of(likelihood) for _, likelihood in pairs],
            use=Use.verdict,
        ),
        Column("finding", [_finding(likelihood) for _, likelihood in pairs], False, use=Use.verdict),
        *measured_columns(pairs),
    ]


def likelihoods_beside(accurate: TableRow, likely: list[TableRow]) -> list[TableRow]:
    """Return the likelihoods of a row's model: those of the same data, or all of them if none is of
    these data."""
    of_model = [row for row in likely if model_of(row) == model_of(accurate)]
    return [row for row in of_model if data_of(row) == data_of(accurate)] or of_model


def data_of(row: TableRow) -> tuple[str | None, str | None]:
    """Return the data set and the split of a run."""
    return row.run.params.get("task.data"), row.run.params.get("task.split")


def measured_columns(pairs: list[tuple[TableRow, TableRow]]) -> list[Column]:
    """Return each metric of the pairs that was measured, from whichever of the two jobs has it."""
    columns = []
    for name in MEASURED_COLUMNS:
        runs = [
            next((run for run in (scored.run, likely.run) if name in run.metrics), scored.run)
            for scored, likely in pairs
        ]
        if any(name in run.metrics for run in runs):
            columns.append(measured(name, runs))
    return columns


def model_of(row: TableRow) -> tuple[tuple[str, str], ...]:
    """Return the keys and values that define a run's model."""
    return tuple(sorted((key, value) for key, value in row.run.params.items() if key.startswith(MODEL_KEYS)))


def _finding(row: TableRow) -> str:
    return row.effect.finding if row.effect else ""


def _word(row: TableRow, key: str) -> str:
    value = row.config.get(key)
    return ABSENT if value is None else value
