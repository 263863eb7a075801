"""What one row has in the KV cache: the prefixes that it shares with others, and its own places."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_engine.kv_cache.prefix import Prefix


@dataclass(eq=False)
class RowKv:
    """The keys and values of a row."""

    prefix: Prefix | None = None  # the deepest one that it attends to
    source: Prefix | None = None  # a deeper one, of which it gets a copy in its slot
    places: int = 0  # its own tokens in the scheduler's KV cache
    # of the prompt cache, with the beginning of its pending tokens
    blocks: list[int] = field(default_factory=list)
    copied: int = 0  # tokens in these blocks
    adapter: str | None = None  # which adapter computes them; None: the base alone
    rest: int = (
        0  # last tokens of its prefix, of which its slot has a copy before its own ones: less than a page
    )

    @property
    def path(self) -> list[Prefix]:
        """The shared prefixes that it continues, from the root down."""
        return self.prefix.path if self.prefix else []

    @property
    def needed(self) -> list[Prefix]:
        """The prefixes that are computed before it enters: those of its path, and those that it
        gets a copy of."""
        return self.source.path if self.source else self.path

    @property
    def shared(self) -> int:
        """Prompt tokens whose keys and values are in shared prefixes."""
        return self.prefix.length if self.prefix else 0

    def forget(self) -> None:
        """Forget its own places and copies; it still continues its prefixes."""
        self.places, self.copied, self.blocks = 0, 0, []
