"""A prefix that several prompts share, and its keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Prefix:
    """Tokens that several prompts share, after the tokens of the parent prefix."""

    tokens: list[int]
    parent: Prefix | None = None
    adapter: str | None = None  # which adapter computes its keys and values; None: the base alone
    users: int = 0  # rows that use it, those of its children included
    is_copied: bool = (
        False  # each row has a copy of it, and of its children, in its slot, and does not attend to it
    )
    kv: Any = field(default=None, repr=False)  # keys and values (SharedKv), while they are needed
    # the keys and values so far, while it is read in pieces
    partial: Any = field(default=None, repr=False)
    read: int = 0  # tokens in `partial`
    freed: int = 0  # as many tokens as the memory has room for that was given back behind windows
    least: int = (
        0  # tokens of a kept conversation that a prompt must begin with: of fewer, some keys were given back
    )
    in_pages: int = 0  # tokens of its whole pages, which decoding rows read and which are stored once more
    of_state: int = 0  # tokens whose keys and values take as much memory as its state, where layers carry one

    @property
    def path(self) -> list[Prefix]:
        """Prefixes on the path from the tree's root to this prefix."""
        return [*(self.parent.path if self.parent else []), self]

    @property
    def attended_prefix(self) -> Prefix | None:
        """This prefix or its nearest ancestor whose keys sequences read in place instead of copying them."""
        return self if not self.is_copied else self.parent.attended_prefix if self.parent else None

    @property
    def length(self) -> int:
        """Number of tokens from the start of the prompt to the end of this prefix."""
        return len(self.tokens) + self.start

    @property
    def start(self) -> int:
        """Number of prompt tokens before this prefix."""
        return self.parent.length if self.parent else 0

    def count_pages(self, page_size: int) -> int:
        """Return the number of KV pages whose last position belongs to this prefix."""
        return self.length // page_size - self.start // page_size

    @property
    def stored_size(self) -> int:
        """Memory of the completely computed prefix in tokens, including KV pages and recurrent state."""
        return len(self.tokens) + self.in_pages + self.of_state

    @property
    def resident_tokens(self) -> int:
        """Memory that the prefix uses now, in tokens, without positions that sliding windows have freed."""
        return (self.read if self.kv is None else self.stored_size) - self.freed

    def free_kv(self) -> None:
        """Free the keys and values of the prefix. They are recomputed when needed."""
        self.kv, self.partial, self.read, self.freed = None, None, 0, 0
