"""Build tables over several tasks: accuracy and likelihood of the same model side by side."""

from __future__ import annotations

from runner_base import Column, ColumnUse
from runner_compare.features.registry import load_sections
from runner_compare.model.data import ABSENT, Table, TableRow, key_label
from runner_compare.model.key_rules import MODEL_KEYS
from runner_compare.render.columns import format_accuracy, metric_column
from runner_compare.render.effects import difference_head, format_difference
from runner_compare.section import CrossTaskTables

MEASURED_COLUMNS = ("kl_nats_per_token", "top_1_agreement", "model_mib", "decode_tok_per_s")


def cross_task_tables(tables: list[Table]) -> dict[str, list[Column]]:
    """Return the nonempty tables over several tasks, as columns by title."""
    titled = {"accuracy and likelihood": accuracy_and_likelihood_columns(tables)}
    for section in load_sections():
        if isinstance(section, CrossTaskTables):
            titled |= section.cross_task_tables(tables)
    return {title: columns for title, columns in titled.items() if columns}


def accuracy_and_likelihood_columns(tables: list[Table]) -> list[Column]:
    """Return columns that pair each model's accuracy row with its likelihood row; [] below two
    pairs.
    """
    scored = [row for table in tables if table.has_accuracies for row in table.rows]
    likely = [row for table in tables if table.likelihood_unit == "token" for row in table.rows]
    pairs = [
        (accurate, likelihood)
        for accurate in scored
        for likelihood in find_matching_likelihoods(accurate, likely)
    ]
    if len(pairs) < 2:
        return []
    keys = [key for table in tables if table.has_accuracies for key in table.keys]
    names = [[_config_text(accurate, key) for accurate, _ in pairs] for key in keys]
    return [
        *(
            Column(key_label(key), values, False, use=ColumnUse.setting)
            for key, values in zip(keys, names, strict=True)
        ),
        Column("accuracy", [format_accuracy(accurate) for accurate, _ in pairs], use=ColumnUse.result),
        Column(
            difference_head("points", [accurate for accurate, _ in pairs]),
            [format_difference(accurate) for accurate, _ in pairs],
            use=ColumnUse.verdict,
        ),
        Column("finding", [_finding_text(accurate) for accurate, _ in pairs], False, use=ColumnUse.verdict),
        Column(
            difference_head("nats/token", [likelihood for _, likelihood in pairs]),
            [format_difference(likelihood) for _, likelihood in pairs],
            use=ColumnUse.verdict,
        ),
        Column(
            "finding", [_finding_text(likelihood) for _, likelihood in pairs], False, use=ColumnUse.verdict
        ),
        *measured_columns(pairs),
    ]


def find_matching_likelihoods(accuracy_row: TableRow, likelihood_rows: list[TableRow]) -> list[TableRow]:
    """Return the likelihood rows of the same model, on the same data if possible."""
    of_model = [row for row in likelihood_rows if model_params(row) == model_params(accuracy_row)]
    return [row for row in of_model if dataset_and_split(row) == dataset_and_split(accuracy_row)] or of_model


def dataset_and_split(row: TableRow) -> tuple[str | None, str | None]:
    return row.run.params.get("task.data"), row.run.params.get("task.split")


def measured_columns(pairs: list[tuple[TableRow, TableRow]]) -> list[Column]:
    """Return the columns of metrics that either of the paired jobs has."""
    columns = []
    for name in MEASURED_COLUMNS:
        runs = [
            next((run for run in (scored.run, likely.run) if name in run.metrics), scored.run)
            for scored, likely in pairs
        ]
        if any(name in run.metrics for run in runs):
            columns.append(metric_column(name, runs))
    return columns


def model_params(row: TableRow) -> tuple[tuple[str, str], ...]:
    """Return the keys and values that define a run's model, sorted."""
    return tuple(sorted((key, value) for key, value in row.run.params.items() if key.startswith(MODEL_KEYS)))


def _finding_text(row: TableRow) -> str:
    return row.effect.finding if row.effect else ""


def _config_text(row: TableRow, key: str) -> str:
    value = row.config.get(key)
    return ABSENT if value is None else value
