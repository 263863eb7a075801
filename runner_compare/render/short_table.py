"""Table of the default output, at most 100 columns wide: results, verdicts and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from runner_base import Column, ColumnUse
from runner_compare.features.registry import load_comparison_sections
from runner_compare.metrics import LOG_LIKELIHOODS, find_metric, plug_in_metric_keys
from runner_compare.model.baselines import find_groups_with_choice
from runner_compare.model.data import ABSENT, JOB_ID, Table, TableRow, config_group, key_label
from runner_compare.render.columns import (
    build_metric_column,
    build_row_name_columns,
    choose_headline_metrics,
    format_accuracy,
    format_metric_with_interval,
)
from runner_compare.render.effects import format_effect, get_sample_unit_name
from runner_compare.render.labels import (
    format_number,
    format_rounded_count,
    format_row_and_baseline_names,
    is_self_explanatory,
)
from runner_compare.render.margins import format_finding
from runner_compare.render.quantities import ACCURACIES, find_quantity
from runner_compare.section import ColumnSlot
from runner_compare.statistics import Decision, Finding, MarginVerdict

MEMORY, KL = "model_mib", "kl_nats_per_token"
SPEEDS = ("decode_tok_per_s", "prefill_tok_per_s")
# where there is no room, the lowest goes first; the verdict stays
OF_SECTIONS, OWN_METRICS, SPEED, MEMORY_ORDER, MORE_NEEDED = range(1, 6)
WHOLE_HEADLINES = 3  # of a table without scores, which always have room
LEVEL = "[95 %]"
MAX_WORD = 12  # characters of a baseline in the head of a column


def build_default_output_columns(table: Table) -> list[Column]:
    rows = table.rows
    columns = build_row_label_columns(table)
    if table.likelihood_unit is not None:
        key = LOG_LIKELIHOODS[table.likelihood_unit]
        cells = [format_metric_with_interval(row.run, key, ".4f") for row in rows]
        columns.append(Column(f"nats/{table.likelihood_unit} {LEVEL}", cells, use=ColumnUse.result))
    elif table.compared_metric is not None:
        cells = [format_number(row.run.metrics.get(table.compared_metric)) for row in rows]
        columns.append(Column(table.compared_metric, cells, use=ColumnUse.result))
    elif table.has_accuracies:
        columns.append(Column(f"accuracy {LEVEL}", list(map(format_accuracy, rows)), use=ColumnUse.result))
    else:
        return [*columns, *_headline_columns(rows)]
    if table.baseline:
        columns += build_comparison_columns(table)
    return (
        columns
        + _build_kl_memory_and_speed_columns(table)
        + (_build_section_and_plug_in_columns(table) if table.has_accuracies or table.compared_metric else [])
    )


def build_comparison_columns(table: Table) -> list[Column]:
    rows = table.rows
    unit = "points " if table.likelihood_unit is None and table.compared_metric is None else ""
    columns = [
        Column(
            f"{unit}vs {format_baseline_heading(table)} {LEVEL}",
            [format_effect(row.effect) if row.effect else ABSENT if row.note else "" for row in rows],
            use=ColumnUse.difference,
        ),
        Column("verdict", list(map(format_verdict_cell, rows)), False, use=ColumnUse.verdict),
    ]
    needed = [format_additional_questions_needed(row.effect) for row in rows]
    if any(needed):
        unit = next(get_sample_unit_name(row.effect) for row in rows if row.effect)
        columns.append(Column(f"more\n{unit}\nneeded", needed, drop_order=MORE_NEEDED, use=ColumnUse.verdict))
    return columns


def format_baseline_heading(table: Table) -> str:
    """Return the baseline's name for a column heading: a short value such as `none`, or `baseline`."""
    keys = table.keys if JOB_ID in table.baseline else [*table.baseline]
    base = next((row for row in table.rows if row.is_baseline), None)
    value = (base.config.get(keys[0]) or base.run.get_value(keys[0])) if base and len(keys) == 1 else None
    is_short = value is not None and is_self_explanatory(keys[0]) and len(value) <= MAX_WORD
    return value if value is not None and is_short else "baseline"


def format_verdict_cell(row: TableRow) -> str:
    if row.is_baseline:
        return "baseline"
    if row.effect is None:
        return "not compared" if row.note else ""
    if row.is_repeat:  # the baseline again: its difference is noise
        return "repeat" if row.effect.finding is Finding.open else f"repeat, {row.effect.finding}"
    return format_short_verdict(row.effect)


def format_short_verdict(decision: Decision) -> str:
    """Format a verdict as a cell: `no loss > 2`, `worse by > 2`, `undecided`."""
    verdict, finding = decision.verdict, decision.finding
    if verdict is None or verdict is MarginVerdict.undecided:
        return format_finding(finding)
    size = (
        f"{100 * (decision.margin or 0):g}"
        if find_quantity(decision) is ACCURACIES
        else f"{decision.margin:g}"
    )
    if decision.is_ratio:
        size = f"{100 * (decision.margin or 0):g} %"
    return {
        MarginVerdict.better: str(finding),
        MarginVerdict.as_good: f"no loss > {size}",
        MarginVerdict.worse_but_within: f"worse by < {size}",
        MarginVerdict.worse_by_more: f"worse by > {size}",
    }[verdict]


def format_additional_questions_needed(decision: Decision | None) -> str:
    """Format the number of additional questions needed to decide about the margin; "" if unknown."""
    if decision is None or not decision.is_undecided or decision.needed is None:
        return ""
    return format_rounded_count(max(0, decision.needed - decision.n))


def build_row_label_columns(table: Table) -> list[Column]:
    columns = build_row_name_columns(table)
    inner, names = find_groups_with_choice(table.baseline), [key_label(key) for key in table.baseline]

    def is_inner(column: Column) -> bool:
        return column.head in names or config_group(column.head) in inner

    columns = sorted(columns, key=is_inner)
    columns = [column for column in columns if len({*column.cells}) > 1] or columns[:1]
    short = Counter(_last_part(column.head) for column in columns)
    heads = [
        _last_part(column.head) if short[_last_part(column.head)] == 1 else column.head for column in columns
    ]
    return [
        replace(column, head=head)
        for column, head in zip(_blank_repeated_labels(columns), heads, strict=True)
    ]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _blank_repeated_labels(columns: Sequence[Column]) -> list[Column]:
    """Blank a cell if it and all cells to its left repeat the line above. The last column is unchanged."""
    lines = list(zip(*(column.cells for column in columns), strict=True))
    shown = []
    for number_, column in enumerate(columns[:-1]):
        is_same = [
            at > 0 and lines[at][: number_ + 1] == lines[at - 1][: number_ + 1] for at in range(len(lines))
        ]
        shown.append(
            replace(
                column,
                cells=_blank_cells(column.cells, is_same),
                whole=_blank_cells(column.whole, is_same) if column.whole else [],
            )
        )
    return [*shown, *columns[-1:]]


def _blank_cells(cells: Sequence[str], is_same: Sequence[bool]) -> list[str]:
    return ["" if same else cell for cell, same in zip(cells, is_same, strict=True)]


def _build_kl_memory_and_speed_columns(table: Table) -> list[Column]:
    rows, columns = table.rows, []
    if table.likelihood_unit is not None and any(KL in row.run.metrics for row in rows):
        columns.append(
            replace(build_metric_column(KL, [row.run for row in rows]), head="KL", drop_order=MORE_NEEDED)
        )
    if any(MEMORY in row.run.metrics for row in rows):
        cells = [format_number(row.run.metrics.get(MEMORY)) for row in rows]
        columns.append(Column(find_metric(MEMORY).head, cells, drop_order=MEMORY_ORDER, use=ColumnUse.memory))
    speed = next((key for key in SPEEDS if any(key in row.run.metrics for row in rows)), None)
    if speed and table.compared_metric is None:
        cells = [_short_speed(row.run.metrics.get(speed)) for row in rows]
        columns.append(
            Column(f"{speed.partition('_')[0]}\ntok/s", cells, drop_order=SPEED, use=ColumnUse.speed)
        )
    return columns


def _short_speed(value: float | None) -> str:
    return f"{value / 1000:.1f}k" if value is not None and value >= 1000 else format_number(value)


def _build_section_and_plug_in_columns(table: Table) -> list[Column]:
    """Return columns of plug-ins and sections, which are omitted on a narrow terminal."""
    rows = table.rows
    columns = [
        replace(column, drop_order=OF_SECTIONS, use=ColumnUse.more)
        for section in load_comparison_sections()
        for column in section.columns(table).get(ColumnSlot.comparison, [])
    ]
    for name in plug_in_metric_keys(row.run.metrics for row in rows):
        cells = [format_number(row.run.metrics.get(name)) for row in rows]
        columns.append(Column(find_metric(name).head, cells, drop_order=OWN_METRICS))
    return columns


def _headline_columns(rows: list[TableRow]) -> list[Column]:
    names = choose_headline_metrics(rows)
    return [
        Column(
            name,
            [format_number(row.run.metrics.get(name)) for row in rows],
            drop_order=0 if at < WHOLE_HEADLINES else len(names) - at,
            use=ColumnUse.result,
        )
        for at, name in enumerate(names)
    ]


def build_ratio_comparison_columns(table: Table) -> list[Column]:
    lines = [(row, effect) for row in table.rows for effect in row.ratio_effects]
    verdicts = [format_short_verdict(effect) if effect.is_tested else "not tested" for _, effect in lines]
    return [
        Column(
            "comparison",
            [format_row_and_baseline_names(row, table.keys) for row, _ in lines],
            False,
            use=ColumnUse.setting,
        ),
        Column("measure", [effect.measure for _, effect in lines], False, use=ColumnUse.setting),
        Column(
            f"ratio {LEVEL}", [f"×{format_effect(effect)}" for _, effect in lines], use=ColumnUse.difference
        ),
        Column("verdict", verdicts, False, use=ColumnUse.verdict),
    ]
