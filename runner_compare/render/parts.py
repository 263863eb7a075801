"""Builds the parts of a comparison's report for terminal, Markdown and HTML output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from runner_base import format_count, join_first_names
from runner_compare.features.registry import load_comparison_sections
from runner_compare.model.comparison import Comparison, ReportPart, SentenceWithFinding, TableGrid, css_class
from runner_compare.model.data import JOB_ID, Run, Table, TableRow, key_label
from runner_compare.render.across_tasks import build_tables_across_tasks
from runner_compare.render.columns import (
    build_detailed_ratio_columns,
    build_table_columns,
    format_table_legend,
)
from runner_compare.render.conclusion import conclusion_text, format_candidate_name
from runner_compare.render.effects import format_high_error_rate_warning, format_simultaneous_intervals_note
from runner_compare.render.findings import format_finding_sentence_per_row
from runner_compare.render.labels import MAX_NAMES, format_row_name, get_cluster_noun
from runner_compare.render.margins import format_margin_and_measure_name
from runner_compare.render.notes import ACTED_ON, render_notes
from runner_compare.render.short_table import build_default_output_columns, build_ratio_comparison_columns
from runner_compare.section import HasRequirements, RowSentences

Item = TypeVar("Item")
DATA = "task.data"
DATA_NAME = re.compile(r"(?!null$)\w[\w.-]*(/[\w.-]+)?")  # a data set's name or Hub id, not a long path
MAX_REASONS = 3  # why runs are not compared that the default output names


class LazySequence(Sequence[Item]):
    """Sequence that is built when it is first read.

    The default output shows neither all columns nor the explanations, whose power simulations take seconds.
    """

    def __init__(self, build_items: Callable[[], list[Item]]) -> None:
        self._build_items = build_items

    @cached_property
    def _items(self) -> list[Item]:
        return self._build_items()

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


def build_comparison_report_parts(comparison: Comparison) -> list[ReportPart]:
    further = section_parts(comparison)
    if alone := [part for part in further if part.is_alone]:
        return [*alone, *(part for part in further if part.is_always_shown)]
    titled = build_tables_across_tasks(comparison.tables).items()
    across = [
        ReportPart(title, [TableGrid(columns_across)], is_headed=False) for title, columns_across in titled
    ]
    return [*map(build_table_report_part, comparison.tables), *across, *further]


def section_parts(comparison: Comparison) -> list[ReportPart]:
    return [part for section in load_comparison_sections() for part in section.cross_task_parts(comparison)]


def _row_css_class(row: TableRow) -> str:
    if row.is_baseline:
        return "baseline"
    return "dominated" if row.on_front is False else ""


def build_table_report_part(table: Table) -> ReportPart:
    return ReportPart(
        table.task,
        LazySequence(lambda: build_complete_grids(table)),
        LazySequence(lambda: _list_sentences_with_findings(table)),
        short_grids=build_default_output_table_grids(table),
        short_sentences=build_sentences_below_tables(table),
        legend=format_table_legend(table),
        runs=format_count(len(table.rows), "run"),
        conclusion=conclusion_text(table.candidate_rows),
        failed=[
            line
            for section in load_comparison_sections()
            if isinstance(section, HasRequirements)
            for line in section.unmet_requirements(table)
        ],
        table=table,
    )


def build_complete_grids(table: Table) -> list[TableGrid]:
    classes = [_row_css_class(row) for row in table.rows]
    grids = [TableGrid(build_table_columns(table), classes=classes)]
    if table.has_ratios:
        classes = [css_class(ratio.finding) for row in table.rows for ratio in row.ratio_effects]
        grids.append(TableGrid(build_detailed_ratio_columns(table), classes=classes))
    for section in load_comparison_sections():
        grids += [TableGrid(further, title) for title, further in section.tables(table).items()]
    return grids


def build_default_output_table_grids(table: Table) -> list[TableGrid]:
    grids = [TableGrid(build_default_output_columns(table))]
    if table.has_ratios:
        grids.append(TableGrid(build_ratio_comparison_columns(table)))
    for section in load_comparison_sections():
        grids += [TableGrid(further, title) for title, further in section.short_tables(table).items()]
    return grids


def build_sentences_below_tables(table: Table) -> list[str]:
    """Return the sentences that the default output prints below its tables.

    The sentences report findings that no table shows and limitations that the user can remove.
    """
    of_sections = [text for section in load_comparison_sections() for text in section.short_sentences(table)]
    intervals = format_simultaneous_intervals_note(row.effect for row in table.candidate_rows if row.effect)
    return [
        *format_not_compared_reasons(table),
        *format_limitations_users_can_remove(table),
        *map(render_notes, table.remarks),
        *of_sections,
        *filter(None, [intervals]),
    ]


def format_not_compared_reasons(table: Table) -> list[str]:
    names: dict[str, list[str]] = {}
    for row in table.candidate_rows:
        if row.note is not None:
            names.setdefault(row.note, []).append(format_candidate_name(row, table.candidate_rows))
    lines = [
        f"{join_first_names(of_reason, MAX_NAMES)}: not compared, {reason}."
        for reason, of_reason in names.items()
    ]
    more = sum(map(len, [*names.values()][MAX_REASONS:]))
    return lines[:MAX_REASONS] + [f"{more} more runs are not compared. --explain gives the reasons."] * bool(
        more
    )


def format_limitations_users_can_remove(table: Table) -> list[str]:
    """Return one line for each limitation that the user can remove, with the candidates that it affects."""
    names: dict[str, list[str]] = {}
    for row in table.candidate_rows:
        for remark in row.effect.remarks if row.effect else ():
            if remark.code in ACTED_ON:
                names.setdefault(render_notes(remark), []).append(
                    format_candidate_name(row, table.candidate_rows)
                )
    return [f"{join_first_names(of_rows, MAX_NAMES)}: {remark}." for remark, of_rows in names.items()]


def format_table_title_parts(table: Table) -> list[str]:
    """Return the parts of a table's title line: task, data, runs, questions, baseline and margins."""
    parts = [
        f"task={table.task}{_format_common_data_set_override(table)}",
        format_count(len(table.rows), "run"),
    ]
    if asked := format_sample_counts(table):
        parts.append(asked)
    if table.baseline:
        parts.append(f"baseline {format_baseline(table)}")
    margins = [
        format_margin_and_measure_name(effect)
        for row in table.candidate_rows
        for effect in row.effects
        if effect.margin is not None
    ]
    return parts + [f"margin {margin}" for margin in dict.fromkeys(margins)]


def _format_common_data_set_override(table: Table) -> str:
    """Return ` task.data=NAME` if all runs use the same named data set."""
    names = {row.run.params.get(DATA) for row in table.rows}
    name = (names.pop() if len(names) == 1 else None) or ""
    return f" {DATA}={name}" if DATA_NAME.fullmatch(name) else ""


def format_sample_counts(table: Table) -> str:
    """Return the number of questions or documents of each run, e.g. `500 questions each in 18 clusters`."""
    what = (
        "document"
        if table.likelihood_unit is not None
        else "question"
        if table.has_accuracies or table.compared_metric
        else ""
    )
    runs = [row.run for row in table.rows]
    counts = sorted({count for run in runs if (count := _count_questions(run))})
    if not what or not counts:
        return ""
    number_of = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    each = " each" if len(runs) > 1 and len(counts) == 1 else ""
    text = f"{number_of} {what}{'s' * (counts[-1] != 1)}{each}"
    answers = max(run.max_answers_per_question for run in runs)
    clusters = [run.metrics.get("families") for run in runs]
    if not any(run.over_seeds for run in runs):
        text += _format_cluster_counts(clusters, get_cluster_noun(runs[0]))
    return f"{text} · {answers} answers to each" if answers > 1 else text


def _format_cluster_counts(clusters: Sequence[float | None], noun: str) -> str:
    """Return the number of clusters of all runs, e.g. ` in 18 clusters (templates)`."""
    known = sorted(count for count in clusters if count)
    if len(known) < len(clusters):
        return f" · {len(known)} of {len(clusters)} runs grouped into {noun}s" if known else ""
    low, high = known[0], known[-1]
    count = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    what = "" if noun == "cluster" else f" ({noun}s)"
    return f" in {count} cluster{'s' * (high != 1)}{what}"


def _count_questions(run: Run) -> int:
    seeds = len(run.parts) if run.over_seeds else 1
    return int(run.correct_and_total[1] / seeds) if run.correct_and_total else int(run.metrics.get("n", 0))


def format_baseline(table: Table) -> str:
    if JOB_ID not in table.baseline:
        return ",".join(f"{key_label(key)}={value}" for key, value in table.baseline.items())
    base = next((row for row in table.rows if row.is_baseline), None)
    return format_row_name(base, table.keys) if base else table.baseline[JOB_ID]


def conclusion_and_findings(table: Table) -> list[str]:
    return [conclusion_text(table.candidate_rows), *filter(None, format_finding_sentence_per_row(table))]


def table_sentences(table: Table) -> list[str]:
    return [text for text, _ in _list_sentences_with_findings(table)]


def _list_sentences_with_findings(table: Table) -> list[SentenceWithFinding]:
    said: list[SentenceWithFinding] = []
    for row, sentence in zip(table.rows, format_finding_sentence_per_row(table), strict=True):
        said += row_sentence_with_finding(row, sentence)
        for section in load_comparison_sections():
            if isinstance(section, RowSentences):
                said += [(text, None) for text in section.row_sentences(table, row)]
    of_sections = [text for section in load_comparison_sections() for text in section.sentences(table)]
    budget = format_high_error_rate_warning(
        [effect for row in table.candidate_rows for effect in row.effects]
    )
    of_table = [budget, *map(render_notes, table.remarks), *of_sections]
    return said + [(text, None) for text in of_table if text]


def row_sentence_with_finding(row: TableRow, sentence: str) -> list[SentenceWithFinding]:
    finding = row.effect.finding if row.effect else None
    return [(sentence, finding)] if sentence else []
