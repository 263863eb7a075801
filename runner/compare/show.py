"""A comparison on stdout: a table for people, Markdown, JSON or CSV."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TextIO

from runner.compare.cells import Column, columns, fit, ratio_columns
from runner.compare.data import Flips, Table
from runner.compare.flips import headline, names, verdict
from runner.compare.records import write_csv, write_json
from runner.compare.say import summary


class Format(StrEnum):
    """What goes to stdout."""

    table = "table"
    markdown = "markdown"
    json = "json"
    csv = "csv"


def render(tables: list[Table], style: Format, out: TextIO) -> None:
    """Print the tables in the style asked for."""
    show: dict[Format, Callable[[list[Table], TextIO], None]] = {
        Format.table: _rich,
        Format.markdown: write_markdown,
        Format.json: write_json,
        Format.csv: write_csv,
    }
    show[style](tables, out)


def _rich(tables: list[Table], out: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape

    # A pipe or a file has no width: give each table all that it needs rather than cut a number short.
    console = Console(file=out, width=None if out.isatty() else 10_000, highlight=False, soft_wrap=True)
    for table in tables:
        console.print(f"[bold]{escape(table.task)}[/bold]: {len(table.rows)} run{'s' * (len(table.rows) != 1)}")
        found, left_out = fit(columns(table), console.width)
        console.print(_grid(found), soft_wrap=False)
        if left_out:
            console.print(f"no room for: {', '.join(left_out)} (--format markdown, --save)", style="dim")
        if any(row.ratios for row in table.rows):
            console.print(_grid(ratio_columns(table)), soft_wrap=False)
        for sentence in table.sentences:
            console.print(f"• {escape(sentence)}")
        console.print("" if not table.baseline else f"{summary(table)}\n", style="dim")
        for flips in table.flips:
            _rich_flips(flips, table, out)


def _grid(found: list[Column]) -> object:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    grid = RichTable(box=box.SIMPLE, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for column in found:
        grid.add_column(escape(column.head), justify="right" if column.is_number else "left", overflow="fold")
    for cells in zip(*(column.cells for column in found), strict=True):
        grid.add_row(*map(escape, cells))
    return grid


def _rich_flips(flips: Flips, table: Table, out: TextIO) -> None:
    """Print each question with both answers side by side, the baseline's on the left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, width=None if out.isatty() else 120, highlight=False)
    ours, theirs = names(flips, table)
    console.print(Text(headline(flips, table), style="bold"))
    for flip in flips.questions:
        mark, style = ("won", "green") if flip.won else ("lost", "red")
        gold = (f"gold {flip.gold}", "bold")
        console.print(Text.assemble("\n", (mark, style), (f" #{flip.index} ", "bold"), f"{flip.question}  ", gold))
        grid = RichTable(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="")
        for name, side in ((theirs, flip.theirs), (ours, flip.ours)):
            grid.add_column(Text.assemble((name, "bold"), f"  {verdict(side)}"), ratio=1, overflow="fold")
        grid.add_row(Text(flip.theirs["text"]), Text(flip.ours["text"]))
        console.print(grid)
    console.print()


def write_markdown(tables: list[Table], out: TextIO) -> None:
    """Write the tables as Markdown."""
    for table in tables:
        out.write(f"### {table.task}\n\n")
        _markdown_grid(columns(table), out)
        if any(row.ratios for row in table.rows):
            _markdown_grid(ratio_columns(table), out)
        if table.baseline:
            out.writelines(f"- {sentence}\n" for sentence in table.sentences)
            out.write(f"\n{summary(table)}\n\n")
        for flips in table.flips:
            out.write(f"#### {headline(flips, table)}\n\n")
            for flip in flips.questions:
                mark = "won" if flip.won else "lost"
                out.write(f"- **{mark}, question {flip.index}:** {_one_line(flip.question)} Gold: {flip.gold}\n")
                for name, side in zip(names(flips, table), (flip.ours, flip.theirs), strict=True):
                    out.write(f"  - {name}: {verdict(side)}; says: {_one_line(side['text'])}\n")
            out.write("\n")


def _markdown_grid(found: list[Column], out: TextIO) -> None:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |\n"

    out.write(line([column.head for column in found]))
    out.write(line(["---:" if column.is_number else "---" for column in found]))
    out.writelines(line(list(cells)) for cells in zip(*(column.cells for column in found), strict=True))
    out.write("\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())
