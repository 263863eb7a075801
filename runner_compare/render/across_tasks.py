"""Build tables that show each model's accuracy on one task next to its likelihood on another."""

from __future__ import annotations

from runner_base import Column, ColumnUse
from runner_compare.features.registry import load_comparison_sections
from runner_compare.model.data import ABSENT, Table, TableRow, key_label
from runner_compare.model.key_rules import MODEL_KEYS
from runner_compare.render.columns import build_metric_column, format_accuracy
from runner_compare.render.effects import format_difference, format_difference_heading
from runner_compare.section import CrossTaskTables

MEASURED_COLUMNS = ("kl_nats_per_token", "top_1_agreement", "model_mib", "decode_tok_per_s")


def build_tables_across_tasks(tables: list[Table]) -> dict[str, list[Column]]:
    titled = {"accuracy and likelihood": build_accuracy_vs_likelihood_columns(tables)}
    for section in load_comparison_sections():
        if isinstance(section, CrossTaskTables):
            titled |= section.cross_task_tables(tables)
    return {title: columns for title, columns in titled.items() if columns}


def build_accuracy_vs_likelihood_columns(tables: list[Table]) -> list[Column]:
    """Return columns with the accuracy and the likelihood of each model.

    Returns [] if fewer than two models have both.
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
    keys = [*dict.fromkeys(key for table in tables if table.has_accuracies for key in table.keys)]
    names = [[_config_text(accurate, key) for accurate, _ in pairs] for key in keys]
    return [
        *(
            Column(key_label(key), values, False, use=ColumnUse.setting)
            for key, values in zip(keys, names, strict=True)
        ),
        Column("accuracy", [format_accuracy(accurate) for accurate, _ in pairs], use=ColumnUse.result),
        Column(
            format_difference_heading("points", [accurate for accurate, _ in pairs]),
            [format_difference(accurate) for accurate, _ in pairs],
            use=ColumnUse.verdict,
        ),
        Column("finding", [_finding_text(accurate) for accurate, _ in pairs], False, use=ColumnUse.verdict),
        Column(
            format_difference_heading("nats/token", [likelihood for _, likelihood in pairs]),
            [format_difference(likelihood) for _, likelihood in pairs],
            use=ColumnUse.verdict,
        ),
        Column(
            "finding", [_finding_text(likelihood) for _, likelihood in pairs], False, use=ColumnUse.verdict
        ),
        *build_kl_size_and_speed_columns(pairs),
    ]


def find_matching_likelihoods(accuracy_row: TableRow, likelihood_rows: list[TableRow]) -> list[TableRow]:
    of_model = [row for row in likelihood_rows if get_model_params(row) == get_model_params(accuracy_row)]
    return [row for row in of_model if dataset_and_split(row) == dataset_and_split(accuracy_row)] or of_model


def dataset_and_split(row: TableRow) -> tuple[str | None, str | None]:
    return row.run.params.get("task.data"), row.run.params.get("task.split")


def build_kl_size_and_speed_columns(pairs: list[tuple[TableRow, TableRow]]) -> list[Column]:
    columns = []
    for name in MEASURED_COLUMNS:
        runs = [
            next((run for run in (scored.run, likely.run) if name in run.metrics), scored.run)
            for scored, likely in pairs
        ]
        if any(name in run.metrics for run in runs):
            columns.append(build_metric_column(name, runs))
    return columns


def get_model_params(row: TableRow) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in row.run.params.items() if key.startswith(MODEL_KEYS)))


def _finding_text(row: TableRow) -> str:
    return row.effect.finding if row.effect else ""


def _config_text(row: TableRow, key: str) -> str:
    value = row.config.get(key)
    return ABSENT if value is None else value
