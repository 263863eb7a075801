"""What a comparison shows, part by part: the terminal, Markdown and the page write the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner_base import Column, counted
from runner_compare.across_tasks import tables_across
from runner_compare.columns import columns, ratio_columns, summary
from runner_compare.data import Table, TableRow
from runner_compare.files import FileTable
from runner_compare.files_table import file_columns, file_legend, file_sentences
from runner_compare.pooled import PooledTable, pooled_columns
from runner_compare.sections import every_section
from runner_compare.statistics.effects import Finding


@dataclass
class Comparison:
    """All that a comparison shows."""

    tables: list[Table]
    pooled: Sequence[PooledTable] = ()
    files: FileTable | None = None  # shown alone where there is one
    explain: bool = False  # whether a terminal explains the Pareto front


@dataclass
class Grid:
    """A table of a part."""

    columns: list[Column]
    title: str = ""
    classes: list[str] = field(default_factory=list)  # of its rows, which a page has colours for


@dataclass
class Shown:
    """A task's table, a pooled one or that of model files, with what is said about it."""

    title: str
    grids: list[Grid]
    sentences: list[tuple[str, Finding | None]] = field(default_factory=list)  # each with the finding that it words
    legend: str = ""
    runs: str = ""  # how many there are, in words
    conclusion: str = ""
    failed: list[str] = field(default_factory=list)  # the requirements that are not met
    table: Table | None = None  # of a task, whose differences are drawn
    is_headed: bool = True  # whether a terminal shows the title


def shown(comparison: Comparison) -> list[Shown]:
    """Return the parts in the order of the terminal."""
    if comparison.files is not None:
        return [of_files(comparison.files)]
    titled = tables_across(comparison.tables).items()
    across = [Shown(title, [Grid(columns_across)], is_headed=False) for title, columns_across in titled]
    return [*map(of_table, comparison.tables), *across, *map(of_pooled, comparison.pooled)]


def of_table(table: Table) -> Shown:
    """Return the part of a task's table."""
    classes = ["baseline" if row.is_baseline else "dominated" if row.on_front is False else "" for row in table.rows]
    grids = [Grid(columns(table), classes=classes)]
    if table.has_ratios:
        classes = [class_of(it.finding) for row in table.rows for it in row.ratios]
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
        conclusion=table.conclusion,
        failed=[line for section in every_section() for line in section.failed(table)],
        table=table,
    )


def of_pooled(table: PooledTable) -> Shown:
    """Return the part of a pooled table."""
    return Shown(
        table.title,
        [Grid(pooled_columns(table))],
        [said for row in table.rows for said in _said_of_row(row)],
        table.legend,
    )


def of_files(table: FileTable) -> Shown:
    """Return the part of a table of model files."""
    classes = ["baseline" if it.is_reference else "dominated" if it.on_front is False else "" for it in table.files]
    said: list[tuple[str, Finding | None]] = [(text, None) for text in file_sentences(table)]
    grid = Grid(file_columns(table), classes=classes)
    return Shown("model files", [grid], said, file_legend(table), is_headed=False)


def class_of(finding: Finding | None) -> str:
    """Return the class of a finding on a page, for its colour."""
    return "" if finding in (None, Finding.open) else str(finding)


def sentences_of(table: Table) -> list[str]:
    """Return all that is said about a table and its rows."""
    return [text for text, _ in _said_of_table(table)]


def _said_of_table(table: Table) -> list[tuple[str, Finding | None]]:
    said: list[tuple[str, Finding | None]] = []
    for row in table.rows:
        said += _said_of_row(row)
        said += [(text, None) for section in every_section() for text in section.row_sentences(table, row)]
    of_sections = [text for section in every_section() for text in section.sentences(table)]
    return said + [(text, None) for text in (*table.remarks, *of_sections, *table.front_sentences) if text]


def _said_of_row(row: TableRow) -> list[tuple[str, Finding | None]]:
    """Return the sentence of a row, if it has one, with the finding that it words."""
    finding = row.effect.finding if row.effect else None
    return [(row.sentence, finding)] if row.sentence else []
