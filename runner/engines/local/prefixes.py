"""The prefixes that rows on their way stand on: found, computed when the first row needs them, let go with the last."""

from __future__ import annotations

from collections.abc import Sequence

from runner.engines.base import EngineStats
from runner.engines.local.conversation_cache import ConversationCache
from runner.engines.local.forward import Forward
from runner.engines.local.prefix_tree import Prefix, share
from runner.engines.rows import Row


class Prefixes:
    """Knows every prefix that a row on its way stands on, and how many tokens they hold."""

    def __init__(self, forward: Forward, stats: EngineStats, conversations: ConversationCache) -> None:
        self.forward, self.stats, self.conversations = forward, stats, conversations
        self.tokens = 0  # whose keys and values are held
        self._alive: dict[tuple[Prefix | None, int], list[Prefix]] = {}  # by parent and first token

    def arrange(self, rows: Sequence[Row]) -> list[Row]:
        """Find what new rows share, and put those of one prefix together, the longest first."""
        groups: dict[Prefix | None, list[Row]] = {}
        for row in rows:
            row.prefix = self.conversations.find(row.prompt)
            self.tokens += row.shared
            if row.prefix is None:
                groups.setdefault(self._deepest(row.prompt), []).append(row)
        for parent, some in groups.items():
            for row, prefix in zip(some, share([row.prompt for row in some], parent), strict=True):
                row.prefix = prefix
        roots: dict[int, int] = {}
        places: dict[int, tuple[int, ...]] = {}
        for row in rows:
            path = row.prefix.path if row.prefix else []
            for one in path:
                self._claim(one)
            places[id(row)] = tuple(roots.setdefault(id(one), len(roots)) for one in path)
        return sorted(rows, key=lambda row: (places[id(row)], -row.need))

    def missing(self, row: Row) -> int:
        """Return how many tokens of a row's prefixes are still to be computed."""
        return sum(len(prefix.tokens) for prefix in (row.prefix.path if row.prefix else []) if prefix.kv is None)

    def compute(self, row: Row) -> None:
        """Have keys and values of all prefixes of a row."""
        for prefix in row.prefix.path if row.prefix else []:
            if prefix.kv is None:
                self.forward.read_prefix(prefix)
                self.tokens += len(prefix.tokens)
                self.stats.prefill_tokens += len(prefix.tokens)

    def release(self, row: Row) -> None:
        """Let go of what no other row stands on."""
        for prefix in row.prefix.path if row.prefix else []:
            prefix.users -= 1
            if prefix.users:
                continue
            key = prefix.parent, prefix.tokens[0]
            self._alive[key].remove(prefix)
            if not self._alive[key]:
                del self._alive[key]
            if prefix.kv is not None:
                prefix.kv = None
                self.tokens -= len(prefix.tokens)

    def forget(self) -> None:
        """Drop all keys and values; they are computed again where they are needed."""
        for prefixes in self._alive.values():
            for prefix in prefixes:
                prefix.kv = None
        self.tokens = 0

    def _claim(self, prefix: Prefix) -> None:
        if not prefix.users:
            self._alive.setdefault((prefix.parent, prefix.tokens[0]), []).append(prefix)
        prefix.users += 1

    def _deepest(self, prompt: Sequence[int]) -> Prefix | None:
        """Return the deepest prefix on its way that a prompt begins with; the prompt's last token stays its own."""
        found: Prefix | None = None
        start = 0
        while start < len(prompt) - 1:
            for one in self._alive.get((found, prompt[start]), []):
                end = start + len(one.tokens)
                if end < len(prompt) and list(prompt[start:end]) == one.tokens:
                    found, start = one, end
                    break
            else:
                break
        return found
