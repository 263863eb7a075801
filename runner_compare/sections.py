"""What a comparison shows, section by section: the terminal, Markdown and the page write the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner_base import Column, counted
from runner_compare.across_tasks import tables_across
from runner_compare.columns import columns, ratio_columns, summary
from runner_compare.data import Table, TableRow
from runner_compare.files import FileTable
from runner_compare.files_table import file_columns, file_legend, file_sentences
from runner_compare.gates import failures
from runner_compare.planning import plan_columns
from runner_compare.pooled import PooledTable, pooled_columns
from runner_compare.section import added_sections
from runner_compare.seeds import rows_with_seeds, seed_columns
from runner_compare.statistics.effects import Finding
from runner_compare.thinking import has_thinking, thinking_columns
from runner_compare.token_tables import BY_CATEGORY, category_columns, has_tokens, token_columns
from runner_compare.token_tables import TITLE as TOKENS_TITLE

THINKING_TITLE = "thinking, and what a right answer costs: the tokens and seconds of all answers for each right one"


@dataclass
class Comparison:
    """All that a comparison shows."""

    tables: list[Table]
    pooled: Sequence[PooledTable] = ()
    files: FileTable | None = None  # shown alone where there is one
    explain: bool = False  # whether a terminal explains the Pareto front


@dataclass
class Grid:
    """A table of a section."""

    columns: list[Column]
    title: str = ""
    classes: list[str] = field(default_factory=list)  # of its rows, which a page has colours for


@dataclass
class Section:
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


def sections(it: Comparison) -> list[Section]:
    """Return the sections in the order of the terminal."""
    if it.files is not None:
        return [of_files(it.files)]
    across = [Section(title, [Grid(shown)], is_headed=False) for title, shown in tables_across(it.tables).items()]
    return [*(of_table(table) for table in it.tables), *across, *map(of_pooled, it.pooled)]


def of_table(table: Table) -> Section:
    """Return the section of a task's table."""
    classes = ["baseline" if row.is_baseline else "dominated" if row.on_front is False else "" for row in table.rows]
    grids = [Grid(columns(table), classes=classes)]
    if table.has_ratios:
        classes = [class_of(it.finding) for row in table.rows for it in row.ratios]
        grids.append(Grid(ratio_columns(table), classes=classes))
    if any(row.plan for row in table.rows):
        grids.append(Grid(plan_columns(table), table.plan_title))
    if has_thinking(table):
        grids.append(Grid(thinking_columns(table), THINKING_TITLE))
    if has_tokens(table):
        grids.append(Grid(token_columns(table), TOKENS_TITLE))
        grids += [Grid(of_kinds, BY_CATEGORY)] if (of_kinds := category_columns(table)) else []
    if rows_with_seeds(table):
        grids.append(Grid(seed_columns(table), "how far seeds are apart"))
    for section in added_sections():
        grids += [Grid(shown, title) for title, shown in section.tables(table).items()]
    said = [*_said_of(table.rows), *((text, None) for text in (*table.remarks, *table.front_sentences) if text)]
    return Section(
        table.task,
        grids,
        said,
        legend=summary(table),
        runs=counted(len(table.rows), "run"),
        conclusion=table.conclusion,
        failed=failures([table]),
        table=table,
    )


def of_pooled(table: PooledTable) -> Section:
    """Return the section of a pooled table."""
    return Section(table.title, [Grid(pooled_columns(table))], _said_of(table.rows), table.legend)


def of_files(table: FileTable) -> Section:
    """Return the section of a table of model files."""
    classes = ["baseline" if it.is_reference else "dominated" if it.on_front is False else "" for it in table.files]
    said: list[tuple[str, Finding | None]] = [(text, None) for text in file_sentences(table)]
    grid = Grid(file_columns(table), classes=classes)
    return Section("model files", [grid], said, file_legend(table), is_headed=False)


def class_of(finding: Finding | None) -> str:
    """Return the class of a finding on a page, for its colour."""
    return "" if finding in (None, Finding.open) else str(finding)


def _said_of(rows: Sequence[TableRow]) -> list[tuple[str, Finding | None]]:
    said: list[tuple[str, Finding | None]] = []
    for row in rows:
        said += [(row.sentence, row.effect.finding if row.effect else None)] * bool(row.sentence)
        said += [(row.saving.words, None)] if row.saving else []
    return said
