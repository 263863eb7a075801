"""Which beginnings several prompts share: a small radix tree over token ids, found by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

LEAST_TOKENS = 32  # a shorter beginning costs more to attend to apart than it saves
LEAST_SAVED = 128  # tokens that need not be computed again
DEEPEST = 6


@dataclass(eq=False)
class Prefix:
    """Tokens that several prompts have in common, after those of the parent."""

    tokens: list[int]
    parent: Prefix | None = None
    users: int = 0  # rows on their way that stand on it, those on its children included
    kv: Any = field(default=None, repr=False)  # keys and values, while somebody needs them

    @property
    def path(self) -> list[Prefix]:
        """The prefixes from the root down to this one."""
        return [*(self.parent.path if self.parent else []), self]

    @property
    def length(self) -> int:
        """Tokens from the start of the prompt to the end of this prefix."""
        return len(self.tokens) + (self.parent.length if self.parent else 0)


def share(prompts: Sequence[Sequence[int]], parent: Prefix | None = None) -> list[Prefix | None]:
    """Return for each prompt the deepest prefix that it shares; every prompt keeps one token or more of its own.

    All prompts begin with the parent, where there is one, and are longer.
    """
    order = sorted(range(len(prompts)), key=lambda at: tuple(prompts[at]))
    found: list[Prefix | None] = [parent] * len(prompts)

    def descend(rows: list[int], start: int, parent: Prefix | None, depth: int) -> None:
        if len(rows) < 2 or depth == DEEPEST:
            return
        # rows are sorted: what the first and the last have in common, all have; a prompt's last token is its own
        end = min(common(prompts[rows[0]], prompts[rows[-1]], start), min(len(prompts[row]) for row in rows) - 1)
        own = end - start
        if own >= LEAST_TOKENS and own * (len(rows) - 1) >= LEAST_SAVED:
            parent = Prefix(list(prompts[rows[0]][start:end]), parent)
            for row in rows:
                found[row] = parent
            start, depth = end, depth + 1
        for group in _branches(prompts, rows, end):
            descend(group, start, parent, depth)

    descend(order, parent.length if parent else 0, parent, len(parent.path) if parent else 0)
    return found


def _branches(prompts: Sequence[Sequence[int]], rows: list[int], at: int) -> Iterator[list[int]]:
    """Part the rows by their token at a place; those that end there go no deeper."""
    longer = [row for row in rows if len(prompts[row]) > at + 1]
    if len(longer) == len(rows) and prompts[rows[0]][at] == prompts[rows[-1]][at]:
        return
    for _, group in groupby(longer, key=lambda row: prompts[row][at]):
        yield list(group)


def common(first: Sequence[int], last: Sequence[int], start: int) -> int:
    """Return up to which token two prompts agree, that they agree before `start` being known."""
    end = start
    for one, other in zip(first[start:], last[start:], strict=False):
        if one != other:
            break
        end += 1
    return end
