"""Tables for people: the columns by their use, and how they fit the width of a terminal.

What is equal in all rows goes into a caption, paths lose what they share, columns that few need are
left out, and cells are wrapped at words. A column that carries a verdict is never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from runner_base.console import plain

if TYPE_CHECKING:
    from rich.console import Console

# An interval, a percentage and a number with its sign stay on one line; so does any other word.
WORD = re.compile(r"\[[^\]]*\]|\S+ %|\S+")
PART_OF_HEAD = re.compile(r"\[[^\]]*\]|[^\s./_]+[./_]*|[./_]+")  # `task.split` may become two lines
PART_OF_SETTING = re.compile(r"[^\s/_,=\-]+[/_,=\-]*|[/_,=\-]+")  # so may a path
PART_OF_WORD = re.compile(r"[^/_.,:=\-]*[/_.,:=\-]?")
IN_SENTENCE = re.compile(r"(?:≥ )?\S+(?: %)?")
PATH = re.compile(r"\S*/\S*")
ELLIPSIS = "…"
# of a pipe or a file: each column has all the room it needs, so that no number is cut
NO_WIDTH = 10_000
FEW_LINES = 2  # of a row; before it takes more, columns are left out


class Use(IntEnum):
    """What a column is good for; a table shows its columns in this order."""

    setting = 1
    result = 2
    difference = 3
    verdict = 4
    memory = 5
    speed = 6
    more = 7
    job = 8  # its id


LEFT_OUT = (Use.memory, Use.speed, Use.more)  # where wrapping does not make enough room
# a caption has their value if all rows have the same
MAY_BE_SHARED = (Use.setting, Use.more, Use.job)


@dataclass
class Column:
    """One column: its head, its cells, and how they are shown."""

    head: str
    cells: list[str]
    is_number: bool = True
    # a narrow terminal leaves out the lowest first, before it wraps cells; 0: does not
    drop_order: int = 0
    use: Use = Use.more
    narrow: Column | None = None  # what is shown instead where there is no room
    # cells that a terminal shortens by itself, before they were cut
    whole: list[str] = field(default_factory=list)


@dataclass
class Fitted:
    """A table as a terminal shows it."""

    columns: list[Column]
    caption: list[str] = field(default_factory=list)  # what all rows share
    left_out: list[str] = field(default_factory=list)  # the heads of columns without room
    breaks_words: bool = False  # whether a word or a number has no line of its own


def whole(columns: Iterable[Column], captions: bool = True) -> Fitted:
    """Return the columns in the order of their use, as a terminal shows them that has room for
    all."""
    columns = [
        replace(
            column, head=plain(column.head), cells=list(map(plain, column.whole or column.cells))
        )
        for column in columns
    ]
    table = Fitted(sorted(columns, key=lambda column: column.use))
    if captions:
        _move_constants(table)
    return table


def fit(columns: Iterable[Column], width: int, gap: int = 2, captions: bool = True) -> Fitted:
    """Return the columns as a terminal of this width has room for them; gap: the space that each
    column adds."""
    table = whole(columns, captions)

    def needed() -> int:
        return sum(gap + width_of(column) for column in table.columns)

    if needed() > width:
        table.columns = [column.narrow or column for column in table.columns]
        _shorten_paths(table)
    while needed() > width and any(column.drop_order for column in table.columns):
        _leave_out(
            table,
            min(
                (column for column in table.columns if column.drop_order),
                key=lambda column: column.drop_order,
            ),
        )
    while needed() > width:
        room = width - gap * len(table.columns)
        optional = [column for column in table.columns if column.use in LEFT_OUT]
        if wrapped := wrap(table.columns, room, FEW_LINES if optional else None):
            table.breaks_words = any(map(_is_broken, table.columns, wrapped))
            table.columns = wrapped
            break
        if not optional:  # narrower than a letter for each column
            table.breaks_words = True
            break
        _leave_out(table, optional[-1])
    return table


def say_lines(terminal: Console, text: object, **how: Any) -> None:
    """Print a text: wrapped at words on a terminal, in one line elsewhere."""
    terminal.print(text, soft_wrap=not terminal.is_terminal, **how)


def say_item(terminal: Console, text: str) -> None:
    """Print an item of a list; on a terminal its further lines are indented."""
    lines = _lines(plain(text), terminal.width - 2, IN_SENTENCE) if terminal.is_terminal else [text]
    terminal.print("• " + "\n  ".join(lines), soft_wrap=True)


def short_paths(values: Sequence[str]) -> list[str]:
    """Return values without the folders that all paths among them share: `…/7b/nf4` and
    `…/8b/nf4`."""
    paths = dict.fromkeys(value for value in values if PATH.fullmatch(value))
    if not paths:
        return list(values)
    split = [path.split("/") for path in paths]
    shared = _shared(split) if len(split) > 1 else len(split[0]) - 1
    last = _shared([parts[shared:][::-1] for parts in split]) if len(split) > 1 else 0
    if sum(map(len, split[0][:shared])) == 0:
        shared = 0

    def short(path: str) -> str:
        parts = path.split("/")
        middle = "/".join(parts[shared : len(parts) - last])
        return f"{(f'{ELLIPSIS}/' if shared > 0 else '')}{middle}{(f'/{ELLIPSIS}' if last > 0 else '')}"

    return [short(value) if value in paths else value for value in values]


def _shared(split: Sequence[Sequence[str]]) -> int:
    """Return how many parts all begin with, so that at least one part of each is left."""
    return len(
        [
            *takewhile(
                lambda parts: len({*parts}) == 1,
                zip(*(parts[:-1] for parts in split), strict=False),
            )
        ]
    )


def _move_constants(table: Fitted) -> None:
    """Move the columns with the same cell in several rows to the caption."""
    same = [
        column
        for column in table.columns
        if len(column.cells) > 1 and len({*column.cells}) == 1 and column.use in MAY_BE_SHARED
    ]
    if len(same) < len(table.columns):
        table.columns = [column for column in table.columns if column not in same]
        table.caption = [
            f"{one_line(column.head)} {one_line(column.cells[0])}"
            for column in same
            if column.cells[0]
        ]


def _shorten_paths(table: Fitted) -> None:
    for index, column in enumerate(table.columns):
        short = short_paths(column.cells) if column.use is Use.setting else column.cells
        if short != column.cells:
            table.columns[index] = replace(column, cells=short)
            examples = (
                pair for pair in zip(short, column.cells, strict=True) if pair[0] != pair[1]
            )
            table.caption.append("{} {} is {}".format(one_line(column.head), *next(examples)))


def _leave_out(table: Fitted, column: Column) -> None:
    table.columns = [other for other in table.columns if other is not column]
    table.left_out.append(one_line(column.head))


def one_line(text: str) -> str:
    """Return a head or a cell without its line ends."""
    return " ".join(text.split())


def wrap(columns: Sequence[Column], room: int, most_lines: int | None) -> list[Column] | None:
    """Wrap the cells of the widest columns until all fit; None if they cannot.

    most_lines: of a cell; if there is no limit, words are broken, too.
    """
    now = list(columns)
    for narrow in (_narrower, _broken)[: 1 if most_lines else 2]:
        while sum(map(width_of, now)) > room:
            by_width = sorted(range(len(now)), key=lambda index: -width_of(now[index]))
            found = (
                (index, narrow(columns[index], width_of(now[index]) - 1)) for index in by_width
            )
            fitting = (
                (index, narrowed)
                for index, narrowed in found
                if narrowed and not (most_lines and _lines_in(narrowed) > most_lines)
            )
            index, column = next(fitting, (0, None))
            if column is None:
                break
            now[index] = column
        if sum(map(width_of, now)) <= room:
            return now
    return None


def _is_broken(column: Column, shown: Column) -> bool:
    """Whether a column is shown in less room than its longest word takes."""
    return width_of(shown) < width_of(column) and _narrower(column, width_of(shown)) is None


def _lines_in(column: Column) -> int:
    return max((cell.count("\n") + 1 for cell in column.cells), default=1)


def _narrower(column: Column, width: int) -> Column | None:
    """Wrap a column at words; None if a word is longer."""
    head = _lines(column.head, width, PART_OF_HEAD)
    breaks = PART_OF_SETTING if column.use is Use.setting else WORD
    cells = ["\n".join(_lines(cell, width, breaks)) for cell in column.cells]
    wrapped = replace(column, head="\n".join(head), cells=cells)
    return wrapped if width_of(wrapped) <= width else None


def _broken(column: Column, width: int) -> Column | None:
    """Wrap a column within words, after a `/`, `_` or the like if there is one; None if there is no
    room at all."""
    if width < 1:
        return None

    def broken(cell: str) -> str:
        lines = _lines(cell, width, WORD)
        pieces = (
            part
            for line in lines
            for part in ([line] if _cell(line) <= width else _pieces(line, width))
        )
        return "\n".join(pieces)

    return replace(column, head=broken(column.head), cells=list(map(broken, column.cells)))


def _pieces(word: str, width: int) -> list[str]:
    lines = [""]
    for part in filter(None, PART_OF_WORD.findall(word)):
        for piece in [part] if _cell(part) <= width else part:
            if _cell(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return list(filter(None, lines))


def _lines(text: str, width: int, word: re.Pattern[str]) -> list[str]:
    """Wrap a text at its words; a longer word has a line of its own."""
    lines = []
    for line in text.split("\n"):
        shown, end = "", 0
        for match in word.finditer(line):
            longer = f"{shown}{line[end : match.start()] if shown else ''}{match[0]}"
            if shown and _cell(longer) > width:
                lines.append(shown)
                longer = match[0]
            shown, end = longer, match.end()
        lines.append(shown)
    return lines


def width_of(column: Column) -> int:
    """Return how many characters of a terminal a column takes."""
    return max(_cell(line) for text in (column.head, *column.cells) for line in text.split("\n"))


def _cell(text: str) -> int:
    """Return how many characters of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
