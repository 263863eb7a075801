"""Builds the columns of a task's full table, and its legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from runner_base import Column, ColumnUse
from runner_base.fields import NOTES
from runner_base.tables import shorten_paths
from runner_compare.features.cut_offs.render import format_worst_and_best_difference
from runner_compare.features.registry import load_comparison_sections
from runner_compare.metrics import ENDS, LOG_LIKELIHOODS, OF_QUESTION, find_metric, plug_in_metric_keys
from runner_compare.model.data import ABSENT, Run, Table, TableRow, key_label
from runner_compare.render.effects import (
    UNTESTED,
    describe_margin_decision,
    describe_margin_verdict,
    format_detectable_difference,
    format_difference,
    format_difference_heading,
    format_effect,
    format_effects_legend,
    format_p_value,
    format_pair_counts,
)
from runner_compare.render.labels import format_number, format_row_and_baseline_names
from runner_compare.render.margins import format_margin
from runner_compare.render.quantities import METHODS, fill_template, find_quantity
from runner_compare.section import ColumnSlot
from runner_compare.statistics import Decision

USES = {"kl_nats_per_token": ColumnUse.result, "model_mib": ColumnUse.memory, "decode_tok_per_s": ColumnUse.speed,
        "prefill_tok_per_s": ColumnUse.speed}  # fmt: skip
# In tables of likelihoods, after the comparison: each with its drop_order
OF_LIKELIHOODS = {"kl_nats_per_token": 0, "top_1_agreement": 0, "acc": 0, "acc_norm": 5, "perplexity": 3,
                  "bits_per_byte": 4, "weight_mib": 2, "model_mib": 0, "peak_rss_mib": 4, "prefill_tok_per_s": 0,
                  "load_s": 1}  # fmt: skip
# The columns of a comparison of accuracies. On a narrow terminal those with the lowest numbers go
# first; 0 stays.
OF_SCORED = {"no_answer": 0, "cut_off": 0, **dict.fromkeys(OF_QUESTION, 0), "weight_mib": 4, "stored_mib": 4,
             "model_mib": 0, "peak_rss_mib": 4, "play_s": 0, "decode_tok_per_s": 0,
             "joules_per_question": 0, "energy_wh": 3, "energy_cost": 2, "load_s": 3,
             "new_tokens": 2}  # fmt: skip
SHOWN_IF_ANY = ("no_answer", "cut_off")  # not shown if they are 0 in every row
# The columns of any other comparison: first the purpose of the tasks, then what most tasks have.
HEADLINES = ("best_decode_tok_per_s", "best_output_tok_per_s", "best_ttft_s", "best_batch_size", "load_peak_rss_mib",
             "steady_rss_mib", "peak_over_baseline_mib", "predicted_total_mib", "largest_part_mib", "stored_mib",
             "weight_mib", "peak_rss_mib", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "seconds")  # fmt: skip
WITH_INTERVAL = ("kl_nats_per_token",)
LONGEST = 60  # characters of a value


def build_table_columns(table: Table) -> list[Column]:
    if table.likelihood_unit is not None:
        return [*build_row_name_columns(table), *_build_likelihood_columns(table, table.likelihood_unit)]
    if table.compared_metric is not None:
        return [
            *build_row_name_columns(table),
            *_metric_columns(table, table.compared_metric),
            *_section_columns(table, ColumnSlot.comparison),
        ]
    if table.has_accuracies:
        return [*build_row_name_columns(table), *_build_accuracy_columns(table)]
    rows = table.rows
    measurements = (_number_column(rows, name, name) for name in choose_headline_metrics(rows))
    return [
        *build_row_name_columns(table),
        *(replace(column, use=ColumnUse.result) for column in measurements),
    ]


def build_row_name_columns(table: Table) -> list[Column]:
    rows = table.rows
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # or two runs have the same config
    columns = [Column("job", [row.run.job_id for row in rows], False, use=ColumnUse.job)] * by_job
    columns += [
        _build_setting_column(key_label(key), [row.config[key] for row in rows]) for key in table.keys
    ]
    return columns + [
        _build_setting_column(key, [row.run.get_value(key) for row in rows])
        for key in list_varying_user_note_keys(rows)
    ]


def build_row_name_columns_for(table: Table, rows: Sequence[TableRow]) -> list[Column]:
    places = [table.rows.index(row) for row in rows]
    return [
        replace(
            column,
            cells=[column.cells[index] for index in places],
            whole=[column.whole[index] for index in places if column.whole],
        )
        for column in build_row_name_columns(table)
    ]


def list_varying_user_note_keys(rows: Sequence[TableRow]) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key in row.run.params if key.startswith(f"{NOTES}."))
    return [key for key in keys if len({row.run.get_value(key) for row in rows}) > 1]


def _build_setting_column(name: str, values: Sequence[str | None]) -> Column:
    """Return the table column of a config key. Long values are truncated."""
    texts = [ABSENT if value is None else value for value in values]
    cells = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in texts]
    whole = texts if shorten_paths(texts) != texts else cells
    return Column(name, cells, False, use=ColumnUse.setting, whole=whole)


def _build_accuracy_columns(table: Table) -> list[Column]:
    rows = table.rows
    columns = [
        Column("questions", [_format_question_count(row.run) for row in rows]),
        Column("accuracy", list(map(format_accuracy, rows)), use=ColumnUse.result),
    ]
    columns += _section_columns(table, ColumnSlot.accuracy)
    if table.baseline:
        *test, smallest = effect_columns(rows, "points")
        columns += [*test, Column("wins/losses\n/ties", _effect_cells(rows, format_pair_counts)), smallest]
    columns += _section_columns(table, ColumnSlot.comparison)
    for name, drop_order in OF_SCORED.items():
        values = [row.run.metrics.get(name) for row in rows]
        if any(values) if name in SHOWN_IF_ANY else any(value is not None for value in values):
            columns.append(_number_column(rows, name, find_metric(name).head, drop_order))
    columns += [
        _number_column(rows, name, find_metric(name).head, 1)
        for name in plug_in_metric_keys(row.run.metrics for row in rows)
    ]
    columns += _section_columns(table, ColumnSlot.last)
    return columns


def _section_columns(table: Table, slot: ColumnSlot) -> list[Column]:
    return [
        column for section in load_comparison_sections() for column in section.columns(table).get(slot, [])
    ]


def _build_likelihood_columns(table: Table, unit: str) -> list[Column]:
    rows, key = table.rows, LOG_LIKELIHOODS[unit]
    columns = [
        _number_column(rows, "n", "documents"),
        Column(
            f"log-likelihood\nnats/{unit}",
            [format_metric_with_interval(row.run, key, ".4f") for row in rows],
            use=ColumnUse.result,
        ),
    ]
    if table.baseline:
        columns += effect_columns(rows, f"nats/{unit}")
    for name, drop_order in OF_LIKELIHOODS.items():
        if any(name in row.run.metrics for row in rows):
            columns.append(build_metric_column(name, [row.run for row in rows], drop_order))
    return columns


def _metric_columns(table: Table, name: str) -> list[Column]:
    columns = [
        _number_column(table.rows, "n", "questions"),
        replace(_number_column(table.rows, name, name), use=ColumnUse.result),
    ]
    return columns + (effect_columns(table.rows, name) if table.baseline else [])


def effect_columns(rows: list[TableRow], unit: str) -> list[Column]:
    return [
        Column(
            format_difference_heading(unit, rows),
            list(map(format_difference, rows)),
            use=ColumnUse.difference,
        ),
        *[Column(f"Δ {unit}\nbounds", _effect_cells(rows, format_worst_and_best_difference), drop_order=1)]
        * any(effect and effect.ends for effect in (row.effect for row in rows)),
        Column("p", _effect_cells(rows, lambda effect: format_p_value(effect.p)), drop_order=8),
        Column(
            "Holm", _effect_cells(rows, lambda effect: format_p_value(effect.p_holm)), use=ColumnUse.verdict
        ),
        *build_margin_columns(rows),
        Column(f"min. detectable\n{unit}", _effect_cells(rows, format_detectable_difference), drop_order=6),
    ]


def build_margin_columns(rows: Sequence[TableRow | None]) -> list[Column]:
    """Return the column of margin verdicts; [] if no row has one.

    On a narrow terminal, the margin moves to the heading.
    """
    effects = [row.effect if row and row.effect and row.effect.verdict else None for row in rows]
    margins = {format_margin(effect) for effect in effects if effect}
    if not margins:
        return []
    cells = [describe_margin_verdict(effect, format_margin(effect)) if effect else "" for effect in effects]
    column = Column("margin", cells, False, use=ColumnUse.verdict)
    if len(margins) == 1:
        (margin,) = margins
        short = [describe_margin_verdict(effect) if effect else "" for effect in effects]
        column.narrow = replace(column, head=f"margin\n{margin}", cells=short)
    return [column]


def _effect_cells(rows: list[TableRow], format_effect: Callable[[Decision], str]) -> list[str]:
    return [format_effect(row.effect) if row.effect else "" for row in rows]


def build_detailed_ratio_columns(table: Table) -> list[Column]:
    lines = [(row, effect) for row in table.rows for effect in row.ratio_effects]
    counted = "/".join(dict.fromkeys(find_quantity(effect).counted for _, effect in lines))
    columns = [
        Column(
            "comparison",
            [format_row_and_baseline_names(row, table.keys) for row, _ in lines],
            False,
            use=ColumnUse.setting,
        ),
        Column("measure", [effect.measure for _, effect in lines], False, use=ColumnUse.setting),
        Column("ratio", [f"×{format_effect(effect)}" for _, effect in lines], use=ColumnUse.difference),
        Column(counted, [fill_template(METHODS[effect.method].sample, effect) for _, effect in lines]),
        Column("p", [format_p_value(effect.p) if effect.is_tested else ABSENT for _, effect in lines]),
        Column(
            "Holm",
            [format_p_value(effect.p_holm) if effect.is_tested else ABSENT for _, effect in lines],
            use=ColumnUse.verdict,
        ),
        Column(
            "finding",
            [str(effect.finding) if effect.is_tested else UNTESTED for _, effect in lines],
            False,
            use=ColumnUse.verdict,
        ),
    ]
    if any(effect.verdict for _, effect in lines):
        columns.append(
            Column(
                "margin",
                [describe_margin_decision(effect) for _, effect in lines],
                False,
                use=ColumnUse.verdict,
            )
        )
    return columns


def format_accuracy(row: TableRow) -> str:
    if row.run.accuracy_interval is None:
        return ABSENT
    accuracy, low, high = row.run.accuracy_interval
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _format_question_count(run: Run) -> str:
    if run.correct_and_total is None:
        return ABSENT
    seeds = len(run.parts) if run.over_seeds else 1
    each, seeds_words = run.max_answers_per_question, (f" × {seeds} seeds" if seeds > 1 else "")
    return (
        format_number(run.correct_and_total[1] / seeds)
        + (f" × {each} answers" if each > 1 else "")
        + seeds_words
    )


def choose_headline_metrics(rows: list[TableRow]) -> list[str]:
    """Return up to eight metrics that all rows have. Headline metrics come first."""
    shared = set.intersection(*(set(row.run.metrics) for row in rows))
    known = [name for name in HEADLINES if name in shared]
    return [*known, *sorted(name for name in shared - set(known) if "/" not in name)][:8]


def _number_column(rows: list[TableRow], name: str, head: str, drop_order: int = 0) -> Column:
    cells = [format_number(row.run.metrics.get(name)) for row in rows]
    return Column(head, cells, drop_order=drop_order, use=USES.get(name, ColumnUse.more))


def build_metric_column(name: str, runs: Sequence[Run | None], drop_order: int = 0) -> Column:
    write = (
        partial(format_metric_with_interval, number_format=".2g") if name in WITH_INTERVAL else _format_metric
    )
    cells = [ABSENT if run is None else write(run, name) for run in runs]
    return Column(find_metric(name).head, cells, drop_order=drop_order, use=USES.get(name, ColumnUse.more))


def _format_metric(run: Run, name: str) -> str:
    return find_metric(name).format_value(run.metrics[name]) if name in run.metrics else ABSENT


def format_metric_with_interval(run: Run, name: str, number_format: str) -> str:
    if name not in run.metrics:
        return ABSENT
    ends = [run.metrics[f"{name}{end}"] for end in ENDS[1:] if f"{name}{end}" in run.metrics]
    interval = f" [{', '.join(format(end, number_format) for end in ends)}]" if ends else ""
    return f"{run.metrics[name]:{number_format}}{interval}".replace("-", "−")


def format_table_legend(table: Table) -> str:
    effects = [effect for row in table.compared_rows for effect in row.effects]
    parts = [
        format_effects_legend(effects),
        *(section.legend(table, True) for section in load_comparison_sections()),
    ]
    return " ".join(filter(None, parts))
