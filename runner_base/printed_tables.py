"""Print tables on a terminal. A table that is too wide is transposed.

A table of many statistics and few rows is wider than a terminal. Transposed, each statistic
is a line and each row is a column. Rows without room follow in further blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runner_base.console import create_rich_table
from runner_base.tables import (
    Column,
    ColumnUse,
    column_width,
    fit_table_to_width,
    join_lines,
    lay_out_table_at_full_width,
    print_wrapped,
    wrap_columns,
)

if TYPE_CHECKING:
    from rich.console import Console

SAME_IN_ALL_ROWS = "in all rows: "
NO_ROOM_FOR = "hidden columns: "


def print_table_fitted_to_terminal(
    terminal: Console, columns: Iterable[Column], omitted_columns_hint: str, **table_options: Any
) -> None:
    """Print as many columns as fit into the terminal. A hint explains how to show the other columns."""
    gap = 3 if table_options.get("frame", "SIMPLE_HEAD") == "SIMPLE_HEAD" else 2
    width = terminal.width - (gap == 3)
    captions = table_options.pop("captions", True)
    columns = list(columns)
    table = fit_table_to_width(columns, width, gap, captions)
    blocks = [table.columns]
    if table.breaks_words:
        table = lay_out_table_at_full_width(columns, captions)
        blocks = transpose_table(table.columns, width, gap)
    if table.caption:
        print_wrapped(terminal, f"{SAME_IN_ALL_ROWS}{' · '.join(table.caption)}", style="dim")
    for block in blocks:
        terminal.print(_build_rich_table(block, **table_options))
    if table.left_out:
        left_out = ", ".join(table.left_out)
        print_wrapped(terminal, f"{NO_ROOM_FOR}{left_out} ({omitted_columns_hint})", style="dim")


def transpose_table(columns: Sequence[Column], width: int, column_gap: int) -> list[list[Column]]:
    """Transpose a table into blocks that fit the width. Each block repeats the headers."""
    naming = next(
        (column for use in (ColumnUse.setting, ColumnUse.job) for column in columns if column.use is use),
        columns[0],
    )
    others = [column for column in columns if column is not naming]
    heads = Column(join_lines(naming.head), [join_lines(other.head) for other in others], is_number=False)
    blocks: list[list[Column]] = []
    for at, name in enumerate(naming.cells):
        row = Column(name, [other.cells[at] for other in others])
        if not blocks or _total_width([*blocks[-1], row], column_gap) > width:
            blocks.append([heads])
        blocks[-1].append(row)
    return [_wrap_block_cells_to_width(block, width, column_gap) for block in blocks]


def _total_width(columns: Sequence[Column], gap: int) -> int:
    return sum(gap + column_width(column) for column in columns)


def _wrap_block_cells_to_width(block: list[Column], width: int, gap: int) -> list[Column]:
    """Wrap the cells of a transposed block that is too wide."""
    if _total_width(block, gap) <= width:
        return block
    return wrap_columns(block, width - gap * len(block), None) or block


def _build_rich_table(columns: Sequence[Column], frame: str = "SIMPLE_HEAD", **how: Any) -> object:
    table = create_rich_table(frame, **how)
    for column in columns:
        table.add_column(column.head, justify="right" if column.is_number else "left", overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table
