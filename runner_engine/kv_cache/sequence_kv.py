"""Contents of the KV cache for one sequence: shared prefixes, copied prefixes and unshared positions."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_engine.kv_cache.prefix import Prefix


@dataclass(eq=False)
class SequenceKv:
    """Shared prefixes, copied prefixes and unshared positions that one sequence has in the KV cache."""

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
        """Shared prefixes of the sequence, in order from the root of the tree."""
        return self.prefix.path if self.prefix else []

    @property
    def needed_prefixes(self) -> list[Prefix]:
        """Prefixes that must be computed before the sequence enters the batch."""
        return self.source.path if self.source else self.path

    @property
    def num_shared_tokens(self) -> int:
        """Number of prompt tokens whose keys and values are in shared prefixes."""
        return self.prefix.length if self.prefix else 0

    def reset(self) -> None:
        """Forget unshared positions and copied prefixes, but keep the shared prefixes."""
        self.places, self.copied, self.blocks = 0, 0, []
