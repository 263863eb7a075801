"""Lay out tables for the width of a terminal.

Values that are equal in all rows move to a caption, shared path prefixes are cut, less
important columns are dropped, and cells wrap at word boundaries. A column with a verdict is
never dropped.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from runner_base.console import escape_control_characters

if TYPE_CHECKING:
    from rich.console import Console

# An interval, a percentage and a number with its sign stay on one line; so does any other word.
IN_BRACKETS = r"\[[^\]]*\]|"
WORD = re.compile(IN_BRACKETS + r"\S+ %|\S+")
# `task.split` may become two lines
PART_OF_HEAD = re.compile(IN_BRACKETS + r"[^\s./_]+[./_]*|[./_]+")
WITHOUT_BRACKETS = {word: re.compile(word.pattern.removeprefix(IN_BRACKETS)) for word in (WORD, PART_OF_HEAD)}
PART_OF_SETTING = re.compile(r"[^\s/_,=\-]+[/_,=\-]*|[/_,=\-]+")  # so may a path
PART_OF_WORD = re.compile(r"[^/_.,:=\-]*[/_.,:=\-]?")
IN_SENTENCE = re.compile(r"(?:≥ )?\S+(?: %)?")
SPACE = re.compile(r"\s")
ELLIPSIS = "…"
# of a pipe or a file: each column has all the room it needs, so that no number is cut
NO_WIDTH = 10_000
PAGE_WIDTH = 100  # of text and tables that fit a page, also in a pipe
COMBINED = 32  # letters of one sign at most, such as an emoji of several persons
FEW_LINES = 2  # of a row; before it takes more, columns are left out


class ColumnUse(IntEnum):
    """Purpose of a column. Tables sort their columns by purpose, in the order of these members."""

    setting = 1
    result = 2
    difference = 3
    verdict = 4
    memory = 5
    speed = 6
    more = 7
    job = 8  # its id


LEFT_OUT = (ColumnUse.memory, ColumnUse.speed, ColumnUse.more)  # where wrapping does not make enough room
# a caption has their value if all rows have the same
MAY_BE_SHARED = (ColumnUse.setting, ColumnUse.more, ColumnUse.job)


@dataclass
class Column:
    head: str
    cells: list[str]
    is_number: bool = True
    # a narrow terminal leaves out the lowest first, before it wraps cells; 0: does not
    drop_order: int = 0
    use: ColumnUse = ColumnUse.more
    narrow: Column | None = None  # what is shown instead where there is no room
    # cells that a terminal shortens by itself, before they were cut
    whole: list[str] = field(default_factory=list)


@dataclass
class FittedTable:
    """A table laid out for a terminal."""

    columns: list[Column]
    caption: list[str] = field(default_factory=list)  # what all rows share
    left_out: list[str] = field(default_factory=list)  # the heads of columns without room
    breaks_words: bool = False  # whether a word or a number has no line of its own


def lay_out_table_at_full_width(
    columns: Iterable[Column], move_constants_to_caption: bool = True
) -> FittedTable:
    """Lay out all columns, sorted by purpose, without a width limit."""
    columns = [
        replace(
            column,
            head=escape_control_characters(column.head),
            cells=list(map(escape_control_characters, column.whole or column.cells)),
        )
        for column in columns
    ]
    table = FittedTable(sorted(columns, key=lambda column: column.use))
    if move_constants_to_caption:
        _move_constants_to_caption(table)
    return table


def fit_table_to_width(
    columns: Iterable[Column], width: int, gap: int = 2, move_constants_to_caption: bool = True
) -> FittedTable:
    """Lay out the columns for a terminal width. `gap` is the width between two columns."""
    table = lay_out_table_at_full_width(columns, move_constants_to_caption)

    def total_width() -> int:
        return sum(gap + column_width(column) for column in table.columns)

    if total_width() > width:
        table.columns = [column.narrow or column for column in table.columns]
        _shorten_path_columns(table)
    while total_width() > width and any(column.drop_order for column in table.columns):
        _drop_column(
            table,
            min(
                (column for column in table.columns if column.drop_order),
                key=lambda column: column.drop_order,
            ),
        )
    while total_width() > width:
        room = width - gap * len(table.columns)
        optional = [column for column in table.columns if column.use in LEFT_OUT]
        if wrapped := wrap_columns(table.columns, room, FEW_LINES if optional else None):
            table.breaks_words = any(map(_has_broken_words, table.columns, wrapped))
            table.columns = wrapped
            break
        if not optional:  # narrower than a letter for each column
            table.breaks_words = True
            break
        _drop_column(table, optional[-1])
    return table


def print_wrapped(terminal: Console, text: object, **print_options: Any) -> None:
    """Print a text, wrapped at words on a terminal and on one line elsewhere."""
    terminal.print(text, soft_wrap=not _is_wrapped(terminal), **print_options)


def print_list_item(terminal: Console, text: str) -> None:
    """Print a list item. On a terminal, its further lines are indented."""
    lines = (
        _wrap_text(escape_control_characters(text), terminal.width - 2, IN_SENTENCE)
        if _is_wrapped(terminal)
        else [text]
    )
    terminal.print("• " + "\n  ".join(lines), soft_wrap=True)


def wrapped_lines(text: str, width: int) -> list[str]:
    return _wrap_text(escape_control_characters(text), width, IN_SENTENCE)


def _is_wrapped(terminal: Console) -> bool:
    return terminal.is_terminal or terminal.width <= PAGE_WIDTH


def shorten_paths(values: Sequence[str]) -> list[str]:
    """Replace the parent folders that all paths share by `…`, e.g. `…/7b/nf4`."""
    paths = dict.fromkeys(value for value in values if "/" in value and not SPACE.search(value))
    if not paths:
        return list(values)
    split = [path.split("/") for path in paths]
    shared = _count_shared_parts(split) if len(split) > 1 else len(split[0]) - 1
    last = _count_shared_parts([parts[shared:][::-1] for parts in split]) if len(split) > 1 else 0
    if sum(map(len, split[0][:shared])) == 0:
        shared = 0

    def shorten_path(path: str) -> str:
        parts = path.split("/")
        middle = "/".join(parts[shared : len(parts) - last])
        return f"{(f'{ELLIPSIS}/' if shared > 0 else '')}{middle}{(f'/{ELLIPSIS}' if last > 0 else '')}"

    return [shorten_path(value) if value in paths else value for value in values]


def _count_shared_parts(split_paths: Sequence[Sequence[str]]) -> int:
    """Return how many parent folders all paths share. At least one part of each path remains."""
    return len(
        [
            *takewhile(
                lambda parts: len({*parts}) == 1, zip(*(parts[:-1] for parts in split_paths), strict=False)
            )
        ]
    )


def _move_constants_to_caption(table: FittedTable) -> None:
    same = [
        column
        for column in table.columns
        if len(column.cells) > 1 and len({*column.cells}) == 1 and column.use in MAY_BE_SHARED
    ]
    if len(same) < len(table.columns):
        table.columns = [column for column in table.columns if column not in same]
        table.caption = [
            f"{join_lines(column.head)} = {join_lines(column.cells[0])}" for column in same if column.cells[0]
        ]


def _shorten_path_columns(table: FittedTable) -> None:
    for index, column in enumerate(table.columns):
        short = shorten_paths(column.cells) if column.use is ColumnUse.setting else column.cells
        if short != column.cells:
            table.columns[index] = replace(column, cells=short)
            examples = (pair for pair in zip(short, column.cells, strict=True) if pair[0] != pair[1])
            table.caption.append("{} means {}".format(*next(examples)))


def _drop_column(table: FittedTable, column: Column) -> None:
    table.columns = [other for other in table.columns if other is not column]
    table.left_out.append(join_lines(column.head))


def join_lines(text: str) -> str:
    """Replace the line ends of a heading or a cell by spaces."""
    return " ".join(text.split())


def wrap_columns(columns: Sequence[Column], max_width: int, max_lines: int | None) -> list[Column] | None:
    """Wrap cells of the widest columns until all columns fit. Returns None if that is impossible.

    `max_lines` limits the lines of a cell. Without a limit, words may be broken.
    """
    now = list(columns)
    for narrow in (_wrap_at_words, _wrap_within_words)[: 1 if max_lines else 2]:
        if sum(map(column_width, now)) > max_width:
            now = _narrow_widest_columns(now, _LayoutCache(columns, narrow, max_lines), max_width)
        if sum(map(column_width, now)) <= max_width:
            return now
    return None


class _LayoutCache:
    """Cache of wrapped columns by width."""

    def __init__(
        self,
        columns: Sequence[Column],
        wrap_column: Callable[[Column, int], Column | None],
        max_lines: int | None,
    ) -> None:
        self._columns, self._narrow, self._most_lines = columns, wrap_column, max_lines
        self._known: dict[tuple[int, int], Column | None] = {}

    def wrap_column_to_width(self, column_index: int, width: int) -> Column | None:
        """Return a column wrapped to at most this width, or None if the width is too small."""
        key = (column_index, width)
        if key not in self._known:
            found = self._narrow(self._columns[column_index], width)
            if found and self._most_lines and _max_cell_lines(found) > self._most_lines:
                found = None
            self._known[key] = found
        return self._known[key]

    def min_width(self, index: int, max_width: int) -> int:
        """Return the smallest width to which a column can be wrapped, at most `max_width`."""
        return bisect_left(
            range(max_width), True, key=lambda width: bool(self.wrap_column_to_width(index, width))
        )


def _narrow_widest_columns(columns: list[Column], layouts: _LayoutCache, max_width: int) -> list[Column]:
    """Narrow the widest column step by step, until all columns fit or no column can shrink further.

    Of equally wide columns the first is narrowed. The result of one-character steps is found by
    bisection: the layout after all steps at one width depends on that width alone.
    """
    widths = list(map(column_width, columns))
    least = [layouts.min_width(index, width) for index, width in enumerate(widths)]

    def layout_at(widest: int) -> list[Column]:
        return [
            (layouts.wrap_column_to_width(index, limit) if limit < widths[index] else None) or column
            for index, column in enumerate(columns)
            for limit in [max(widest, least[index])]
        ]

    def fits_after(narrowing: int) -> bool:
        return sum(map(column_width, layout_at(max(widths) - 1 - narrowing))) <= max_width

    steps = bisect_left(range(max(widths)), True, key=fits_after)
    if steps == max(widths):
        return layout_at(0)
    last = max(widths) - steps
    shrunk, narrower = layout_at(last), layout_at(last - 1)
    for index, column in enumerate(shrunk):
        if sum(map(column_width, shrunk)) <= max_width:
            break
        if column_width(column) == last:
            shrunk[index] = narrower[index]
    return shrunk


def _has_broken_words(column: Column, wrapped: Column) -> bool:
    """Whether a column is narrower than its longest word."""
    return (
        column_width(wrapped) < column_width(column) and _wrap_at_words(column, column_width(wrapped)) is None
    )


def _max_cell_lines(column: Column) -> int:
    return max((cell.count("\n") + 1 for cell in column.cells), default=1)


def _wrap_at_words(column: Column, width: int) -> Column | None:
    """Wrap a column at words, or return None if a word is longer than the width."""
    head = _wrap_text(column.head, width, PART_OF_HEAD)
    breaks = PART_OF_SETTING if column.use is ColumnUse.setting else WORD
    cells = ["\n".join(_wrap_text(cell, width, breaks)) for cell in column.cells]
    wrapped = replace(column, head="\n".join(head), cells=cells)
    return wrapped if column_width(wrapped) <= width else None


def _wrap_within_words(column: Column, width: int) -> Column | None:
    """Wrap a column within words, preferably after `/` or `_`. Returns None if that is impossible."""
    if width < 1:
        return None

    def wrap_cell_text(cell: str) -> str:
        lines = _wrap_text(cell, width, WORD)
        pieces = (
            part
            for line in lines
            for part in ([line] if _measure_display_width(line) <= width else _break_word(line, width))
        )
        return "\n".join(pieces)

    wrapped = replace(column, head=wrap_cell_text(column.head), cells=list(map(wrap_cell_text, column.cells)))
    return wrapped if column_width(wrapped) <= width else None  # a letter may take two characters


def _break_word(word: str, width: int) -> list[str]:
    lines, start, end, shown = [], 0, 0, 0
    for part in filter(None, PART_OF_WORD.findall(word)):
        fits = _measure_display_width(part) <= width
        for piece in (
            [part] if fits else _split_by_width(part, width - shown, width) if word.isascii() else part
        ):
            longer = shown + _measure_added_display_width(word, start, end, end + len(piece))
            if longer > width:
                lines.append(word[start:end])
                start, longer = end, _measure_display_width(piece)
            end, shown = end + len(piece), longer
    return list(filter(None, [*lines, word[start:end]]))


def _split_by_width(part: str, first_width: int, width: int) -> list[str]:
    return [part[:first_width], *(part[at : at + width] for at in range(first_width, len(part), width))]


def _wrap_text(text: str, width: int, word_pattern: re.Pattern[str]) -> list[str]:
    """Wrap a text at word boundaries. A longer word gets its own line."""
    lines = []
    for line in text.split("\n"):
        start = end = shown = 0
        for match in _iter_words(line, word_pattern):
            if start == end:
                start = end = match.start()
            longer = shown + _measure_added_display_width(line, start, end, match.end())
            if start < end and longer > width:
                lines.append(line[start:end])
                start, longer = match.start(), _measure_display_width(match[0])
            end, shown = match.end(), longer
        lines.append(line[start:end])
    return lines


def _iter_words(line: str, word_pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield the words of a line. A bracketed interval counts as one word.

    Behind the last `]`, no further closing bracket is searched.
    """
    last, end = line.rfind("]") + 1, 0
    while end < last and (match := word_pattern.search(line, end)):
        yield match
        end = match.end()
    without = WITHOUT_BRACKETS.get(word_pattern, word_pattern)
    yield from without.finditer(line, end)


def _measure_added_display_width(text: str, start: int, old_end: int, new_end: int) -> int:
    """Return by how many terminal cells a text widens if its end moves to `new_end`.

    The last letters before the old end are measured again, since letters may combine into one.
    """
    start = max(start, old_end - COMBINED)
    return _measure_display_width(text[start:new_end]) - _measure_display_width(text[start:old_end])


def column_width(column: Column) -> int:
    return max(
        _measure_display_width(line) for text in (column.head, *column.cells) for line in text.split("\n")
    )


def _measure_display_width(text: str) -> int:
    """Return a text's width in terminal cells."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
