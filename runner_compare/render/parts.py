"""What a comparison shows, part by part: the terminal, Markdown and the page write the same
ones."""

from __future__ import annotations

from runner_base import counted
from runner_compare.features.registry import every_section
from runner_compare.model.comparison import Comparison, Grid, Said, Shown, class_of
from runner_compare.model.data import Table, TableRow
from runner_compare.render.across_tasks import tables_across
from runner_compare.render.columns import columns, ratio_columns, summary
from runner_compare.render.conclusion import conclude
from runner_compare.render.effects import error_budget
from runner_compare.render.findings import finding_sentences
from runner_compare.render.notes import render_notes
from runner_compare.section import Requires, RowSentences


def shown(comparison: Comparison) -> list[Shown]:
    """Return the parts in the order of the terminal."""
    further = further_parts(comparison)
    if alone := [part for part in further if part.is_alone]:
        return [*alone, *(part for part in further if part.is_always_shown)]
    titled = tables_across(comparison.tables).items()
    across = [Shown(title, [Grid(columns_across)], is_headed=False) for title, columns_across in titled]
    return [*map(of_table, comparison.tables), *across, *further]


def further_parts(comparison: Comparison) -> list[Shown]:
    """Return the parts of sections over several tasks."""
    return [part for section in every_section() for part in section.parts(comparison)]


def _class_of_row(row: TableRow) -> str:
    if row.is_baseline:
        return "baseline"
    return "dominated" if row.on_front is False else ""


def of_table(table: Table) -> Shown:
    """Return the part of a task's table."""
    classes = [_class_of_row(row) for row in table.rows]
    grids = [Grid(columns(table), classes=classes)]
    if table.has_ratios:
        classes = [class_of(ratio.finding) for row in table.rows for ratio in row.ratios]
        grids.append(Grid(ratio_columns(table), classes=classes))
    for section in every_section():
        grids += [Grid(further, title) for title, further in section.tables(table).items()]
    said = _said_of_table(table)
    return Shown(
        table.task,
        grids,
        said,
        legend=summary(table),
        runs=counted(len(table.rows), "run"),
        conclusion=conclude(table.settings),
        failed=[
            line
            for section in every_section()
            if isinstance(section, Requires)
            for line in section.failed(table)
        ],
        table=table,
    )


def table_lines(table: Table) -> list[str]:
    """Return what may be concluded over all rows, then the finding about each row."""
    return [conclude(table.settings), *filter(None, finding_sentences(table))]


def sentences_of(table: Table) -> list[str]:
    """Return all that is said about a table and its rows."""
    return [text for text, _ in _said_of_table(table)]


def _said_of_table(table: Table) -> list[Said]:
    said: list[Said] = []
    for row, sentence in zip(table.rows, finding_sentences(table), strict=True):
        said += said_of_row(row, sentence)
        for section in every_section():
            if isinstance(section, RowSentences):
                said += [(text, None) for text in section.row_sentences(table, row)]
    of_sections = [text for section in every_section() for text in section.sentences(table)]
    budget = error_budget([effect for row in table.settings for effect in row.effects])
    of_table = [budget, *map(render_notes, table.remarks), *of_sections]
    return said + [(text, None) for text in of_table if text]


def said_of_row(row: TableRow, sentence: str) -> list[Said]:
    finding = row.effect.finding if row.effect else None
    return [(sentence, finding)] if sentence else []
