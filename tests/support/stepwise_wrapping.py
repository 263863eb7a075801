"""Wrapping as runner_base.tables specifies it: the widest column loses one character at a time.

It takes quadratic time, so only tests use it, as the reference for the bisection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from runner_base.tables import PART_OF_WORD, Column, ColumnUse, column_width
from runner_base.tables import _measure_display_width as cell_width

WORD = re.compile(r"\[[^\]]*\]|\S+ %|\S+")
PART_OF_HEAD = re.compile(r"\[[^\]]*\]|[^\s./_]+[./_]*|[./_]+")
PART_OF_SETTING = re.compile(r"[^\s/_,=\-]+[/_,=\-]*|[/_,=\-]+")


def wrap_by_steps(columns: Sequence[Column], room: int, most_lines: int | None) -> list[Column] | None:
    """Wrap the cells of the widest columns until all fit; None if they cannot.

    most_lines: of a cell; if there is no limit, words are broken, too.
    """
    now = list(columns)
    for narrow in (_narrower, _broken)[: 1 if most_lines else 2]:
        while sum(map(column_width, now)) > room:
            by_width = sorted(range(len(now)), key=lambda index: -column_width(now[index]))
            found = ((index, narrow(columns[index], column_width(now[index]) - 1)) for index in by_width)
            fitting = (
                (index, narrowed)
                for index, narrowed in found
                if narrowed and not (most_lines and _lines_in(narrowed) > most_lines)
            )
            index, column = next(fitting, (0, None))
            if column is None:
                break
            now[index] = column
        if sum(map(column_width, now)) <= room:
            return now
    return None


def _lines_in(column: Column) -> int:
    return max((cell.count("\n") + 1 for cell in column.cells), default=1)


def _narrower(column: Column, width: int) -> Column | None:
    """Wrap a column at words; None if a word is longer."""
    head = lines_by_steps(column.head, width, PART_OF_HEAD)
    breaks = PART_OF_SETTING if column.use is ColumnUse.setting else WORD
    cells = ["\n".join(lines_by_steps(cell, width, breaks)) for cell in column.cells]
    wrapped = replace(column, head="\n".join(head), cells=cells)
    return wrapped if column_width(wrapped) <= width else None


def _broken(column: Column, width: int) -> Column | None:
    """Wrap a column within words, after a `/`, `_` or the like if there is one; None if there is no
    room at all."""
    if width < 1:
        return None

    def broken(cell: str) -> str:
        lines = lines_by_steps(cell, width, WORD)
        pieces = (
            part for line in lines for part in ([line] if cell_width(line) <= width else _pieces(line, width))
        )
        return "\n".join(pieces)

    wrapped = replace(column, head=broken(column.head), cells=list(map(broken, column.cells)))
    return wrapped if column_width(wrapped) <= width else None  # else a wide letter has no end


def _pieces(word: str, width: int) -> list[str]:
    lines = [""]
    for part in filter(None, PART_OF_WORD.findall(word)):
        for piece in [part] if cell_width(part) <= width else part:
            if cell_width(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return list(filter(None, lines))


def lines_by_steps(text: str, width: int, word: re.Pattern[str]) -> list[str]:
    """Wrap a text at its words; a longer word has a line of its own."""
    lines = []
    for line in text.split("\n"):
        shown, end = "", 0
        for match in word.finditer(line):
            longer = f"{shown}{line[end : match.start()] if shown else ''}{match[0]}"
            if shown and cell_width(longer) > width:
                lines.append(shown)
                longer = match[0]
            shown, end = longer, match.end()
        lines.append(shown)
    return lines
