"""Prints the columns of a table on a terminal; where words would be broken, with its rows as
columns.

A table of many statistics and few rows is wider than a terminal. Turned, each statistic is a line
and each row a column of whole numbers; rows that have no room beside the others follow in further
blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runner_base.console import rich_table
from runner_base.tables import Column, Use, fit, one_line, say_lines, whole, width_of, wrap

if TYPE_CHECKING:
    from rich.console import Console


def print_fitted(terminal: Console, columns: Iterable[Column], rest_is: str, **how: Any) -> None:
    """Print the columns as the terminal has room for them; rest_is: where the columns without room
    are."""
    gap = 3 if how.get("frame", "SIMPLE_HEAD") == "SIMPLE_HEAD" else 2
    width = terminal.width - (gap == 3)
    captions = how.pop("captions", True)
    columns = list(columns)
    table = fit(columns, width, gap, captions)
    blocks = [table.columns]
    if table.breaks_words:
        table = whole(columns, captions)
        blocks = turned(table.columns, width, gap)
    if table.caption:
        say_lines(terminal, f"all rows: {' · '.join(table.caption)}", style="dim")
    for block in blocks:
        terminal.print(_grid(block, **how))
    if table.left_out:
        say_lines(terminal, f"no room for: {', '.join(table.left_out)} ({rest_is})", style="dim")


def turned(columns: Sequence[Column], width: int, gap: int) -> list[list[Column]]:
    """Return the blocks of a turned table: its heads as the first column, and as many rows as have
    room beside it."""
    naming = next(
        (column for use in (Use.setting, Use.job) for column in columns if column.use is use), columns[0]
    )
    others = [column for column in columns if column is not naming]
    heads = Column(one_line(naming.head), [one_line(other.head) for other in others], is_number=False)
    blocks: list[list[Column]] = []
    for at, name in enumerate(naming.cells):
        row = Column(name, [other.cells[at] for other in others])
        if not blocks or _needed([*blocks[-1], row], gap) > width:
            blocks.append([heads])
        blocks[-1].append(row)
    return [_narrowed(block, width, gap) for block in blocks]


def _needed(columns: Sequence[Column], gap: int) -> int:
    return sum(gap + width_of(column) for column in columns)


def _narrowed(block: list[Column], width: int, gap: int) -> list[Column]:
    """Wrap a block that has no room although it has one row only."""
    if _needed(block, gap) <= width:
        return block
    return wrap(block, width - gap * len(block), None) or block


def _grid(columns: Sequence[Column], frame: str = "SIMPLE_HEAD", **how: Any) -> object:
    table = rich_table(frame, **how)
    for column in columns:
        table.add_column(column.head, justify="right" if column.is_number else "left", overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table
