"""Report parts of a comparison, shared by terminal, Markdown and page."""

from __future__ import annotations

from runner_base import format_count
from runner_compare.features.registry import load_sections
from runner_compare.model.comparison import Comparison, ReportPart, Said, TableGrid, css_class
from runner_compare.model.data import Table, TableRow
from runner_compare.render.across_tasks import cross_task_tables
from runner_compare.render.columns import ratio_columns, table_columns, table_legend
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.effects import error_budget_sentence
from runner_compare.render.findings import finding_sentences
from runner_compare.render.notes import render_notes
from runner_compare.section import HasRequirements, RowSentences


def report_parts(comparison: Comparison) -> list[ReportPart]:
    """Return the parts in display order."""
    further = section_parts(comparison)
    if alone := [part for part in further if part.is_alone]:
        return [*alone, *(part for part in further if part.is_always_shown)]
    titled = cross_task_tables(comparison.tables).items()
    across = [
        ReportPart(title, [TableGrid(columns_across)], is_headed=False) for title, columns_across in titled
    ]
    return [*map(table_part, comparison.tables), *across, *further]


def section_parts(comparison: Comparison) -> list[ReportPart]:
    """Return the parts of sections over several tasks."""
    return [part for section in load_sections() for part in section.cross_task_parts(comparison)]


def _row_css_class(row: TableRow) -> str:
    if row.is_baseline:
        return "baseline"
    return "dominated" if row.on_front is False else ""


def table_part(table: Table) -> ReportPart:
    """Return the report part of a task's table."""
    classes = [_row_css_class(row) for row in table.rows]
    grids = [TableGrid(table_columns(table), classes=classes)]
    if table.has_ratios:
        classes = [css_class(ratio.finding) for row in table.rows for ratio in row.ratio_effects]
        grids.append(TableGrid(ratio_columns(table), classes=classes))
    for section in load_sections():
        grids += [TableGrid(further, title) for title, further in section.tables(table).items()]
    said = _sentences_with_findings(table)
    return ReportPart(
        table.task,
        grids,
        said,
        legend=table_legend(table),
        runs=format_count(len(table.rows), "run"),
        conclusion=conclusion_text(table.candidate_rows),
        failed=[
            line
            for section in load_sections()
            if isinstance(section, HasRequirements)
            for line in section.unmet_requirements(table)
        ],
        table=table,
    )


def conclusion_and_findings(table: Table) -> list[str]:
    """Return the conclusion over all rows, then the finding about each row."""
    return [conclusion_text(table.candidate_rows), *filter(None, finding_sentences(table))]


def table_sentences(table: Table) -> list[str]:
    """Return all sentences about a table and its rows."""
    return [text for text, _ in _sentences_with_findings(table)]


def _sentences_with_findings(table: Table) -> list[Said]:
    said: list[Said] = []
    for row, sentence in zip(table.rows, finding_sentences(table), strict=True):
        said += row_sentence_with_finding(row, sentence)
        for section in load_sections():
            if isinstance(section, RowSentences):
                said += [(text, None) for text in section.row_sentences(table, row)]
    of_sections = [text for section in load_sections() for text in section.sentences(table)]
    budget = error_budget_sentence([effect for row in table.candidate_rows for effect in row.effects])
    of_table = [budget, *map(render_notes, table.remarks), *of_sections]
    return said + [(text, None) for text in of_table if text]


def row_sentence_with_finding(row: TableRow, sentence: str) -> list[Said]:
    finding = row.effect.finding if row.effect else None
    return [(sentence, finding)] if sentence else []
