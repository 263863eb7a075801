"""Tables for people: the columns by their use, and how they fit the width of a terminal.

What is equal in all rows goes into a caption, paths lose what they share, columns that few need are
left out, and cells are wrapped at words. A column that carries a verdict is never left out.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from runner_base.console import plain

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
COMBINED = 32  # letters of one sign at most, such as an emoji of several persons
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
        replace(column, head=plain(column.head), cells=list(map(plain, column.whole or column.cells)))
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
    paths = dict.fromkeys(value for value in values if "/" in value and not SPACE.search(value))
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
        [*takewhile(lambda parts: len({*parts}) == 1, zip(*(parts[:-1] for parts in split), strict=False))]
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
            f"{one_line(column.head)} {one_line(column.cells[0])}" for column in same if column.cells[0]
        ]


def _shorten_paths(table: Fitted) -> None:
    for index, column in enumerate(table.columns):
        short = short_paths(column.cells) if column.use is Use.setting else column.cells
        if short != column.cells:
            table.columns[index] = replace(column, cells=short)
            examples = (pair for pair in zip(short, column.cells, strict=True) if pair[0] != pair[1])
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
        if sum(map(width_of, now)) > room:
            now = _shrink(now, _Layouts(columns, narrow, most_lines), room)
        if sum(map(width_of, now)) <= room:
            return now
    return None


class _Layouts:
    """Columns wrapped to any width by one function; each layout is computed once."""

    def __init__(
        self,
        columns: Sequence[Column],
        narrow: Callable[[Column, int], Column | None],
        most_lines: int | None,
    ) -> None:
        self._columns, self._narrow, self._most_lines = columns, narrow, most_lines
        self._known: dict[tuple[int, int], Column | None] = {}

    def at(self, index: int, width: int) -> Column | None:
        """Return a column in at most this width, None if that is too narrow for it."""
        key = (index, width)
        if key not in self._known:
            found = self._narrow(self._columns[index], width)
            if found and self._most_lines and _lines_in(found) > self._most_lines:
                found = None
            self._known[key] = found
        return self._known[key]

    def least(self, index: int, most: int) -> int:
        """Return the least width that a column can have, `most` if none below it."""
        return bisect_left(range(most), True, key=lambda width: bool(self.at(index, width)))


def _shrink(now: list[Column], layouts: _Layouts, room: int) -> list[Column]:
    """Narrow the widest column, the first of equal ones, step by step until all fit or none can.

    A step narrows by one character, but the result is found by bisection: wrapping to the width
    that a layout has, instead of the width that was allowed, gives the same layout. So the state
    after all steps at one width depends on that width alone.
    """
    widths = list(map(width_of, now))
    least = [layouts.least(index, width) for index, width in enumerate(widths)]

    def state(widest: int) -> list[Column]:
        return [
            (layouts.at(index, limit) if limit < widths[index] else None) or column
            for index, column in enumerate(now)
            for limit in [max(widest, least[index])]
        ]

    def fits(narrowing: int) -> bool:
        return sum(map(width_of, state(max(widths) - 1 - narrowing))) <= room

    steps = bisect_left(range(max(widths)), True, key=fits)
    if steps == max(widths):
        return state(0)
    last = max(widths) - steps
    shrunk, narrower = state(last), state(last - 1)
    for index, column in enumerate(shrunk):
        if sum(map(width_of, shrunk)) <= room:
            break
        if width_of(column) == last:
            shrunk[index] = narrower[index]
    return shrunk


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
            part for line in lines for part in ([line] if _cell(line) <= width else _pieces(line, width))
        )
        return "\n".join(pieces)

    wrapped = replace(column, head=broken(column.head), cells=list(map(broken, column.cells)))
    return wrapped if width_of(wrapped) <= width else None  # a letter may take two characters


def _pieces(word: str, width: int) -> list[str]:
    lines, start, end, shown = [], 0, 0, 0
    for part in filter(None, PART_OF_WORD.findall(word)):
        fits = _cell(part) <= width
        for piece in [part] if fits else _cut(part, width - shown, width) if word.isascii() else part:
            longer = shown + _added(word, start, end, end + len(piece))
            if longer > width:
                lines.append(word[start:end])
                start, longer = end, _cell(piece)
            end, shown = end + len(piece), longer
    return list(filter(None, [*lines, word[start:end]]))


def _cut(part: str, first: int, width: int) -> list[str]:
    return [part[:first], *(part[at : at + width] for at in range(first, len(part), width))]


def _lines(text: str, width: int, word: re.Pattern[str]) -> list[str]:
    """Wrap a text at its words; a longer word has a line of its own."""
    lines = []
    for line in text.split("\n"):
        start = end = shown = 0
        for match in _words(line, word):
            if start == end:
                start = end = match.start()
            longer = shown + _added(line, start, end, match.end())
            if start < end and longer > width:
                lines.append(line[start:end])
                start, longer = match.start(), _cell(match[0])
            end, shown = match.end(), longer
        lines.append(line[start:end])
    return lines


def _words(line: str, word: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Find words; behind the last `]`, no `[` searches the rest of the line for its end."""
    last, end = line.rfind("]") + 1, 0
    while end < last and (match := word.search(line, end)):
        yield match
        end = match.end()
    without = WITHOUT_BRACKETS.get(word, word)
    yield from without.finditer(line, end)


def _added(text: str, start: int, end: int, new_end: int) -> int:
    """Return how many characters of a terminal a part of a text takes more with a new end.

    A few letters before the old end are measured again, since letters may combine into one.
    """
    start = max(start, end - COMBINED)
    return _cell(text[start:new_end]) - _cell(text[start:end])


def width_of(column: Column) -> int:
    """Return how many characters of a terminal a column takes."""
    return max(_cell(line) for text in (column.head, *column.cells) for line in text.split("\n"))


def _cell(text: str) -> int:
    """Return how many characters of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
