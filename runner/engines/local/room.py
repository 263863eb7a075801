"""How many rows there is room for, and places for each, by what they may come to need and by what memory has."""

from __future__ import annotations

from collections import deque

from runner.engines.base import MEMORY_IS_SHORT, EngineStats
from runner.engines.kinds.local import MOST_ROWS
from runner.engines.local.forward import Forward
from runner.engines.local.kv_cache import Heads, OwnKv, room_tokens
from runner.engines.local.prefix_tree import Prefixes
from runner.engines.rows import Row

ROOM_TO_GROW = 256  # places beyond the longest own prompt, before the store has to grow


class Room:
    """The rows that are on their way and those that wait, and the store for them."""

    def __init__(
        self, heads: Heads, stats: EngineStats, forward: Forward, prefixes: Prefixes, asked_rows: int | None
    ) -> None:
        self.heads, self.stats, self.forward, self.prefixes = heads, stats, forward, prefixes
        self.asked_rows = asked_rows  # None: nobody minds how many
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []
        self.budget_tokens = 0  # whose keys and values may be held
        self._empty()

    def _empty(self) -> None:
        """Forget the store, its size, and what was learned of memory."""
        self.own: OwnKv | None = None
        self.most_rows = self.asked_rows or MOST_ROWS.get(self.heads.device.type, 128)
        self.late_slots = 0  # that rows would need which came after the store was made
        self.has_said_short = False

    def _set_budget(self) -> None:
        """Let rows hold a share of what memory has now: other programs take from it, and limits may change."""
        held = 0 if self.own is None else self.own.held
        self.budget_tokens = room_tokens(self.heads, held + self.prefixes.tokens)

    def _affordable_slots(self) -> int:
        """Return how many of the rows that are here could be on their way together."""
        need = max(row.need for row in (*self.active, *self.waiting))
        affordable = max(self.budget_tokens // max(need, 1), len(self.active))
        return min(self.most_rows, len(self.active) + len(self.waiting), affordable)

    def _say_short(self, rows: int) -> None:
        """Note once that fewer rows than asked for go on at once."""
        if self.asked_rows and not self.has_said_short and rows < self.most_rows == self.asked_rows:
            self.has_said_short = True
            tokens = f"{self.budget_tokens:,} tokens of keys and values"
            self.stats.notes.append(f"{MEMORY_IS_SHORT} {tokens}: {rows} rows at once, {self.most_rows} were asked for")

    def _fits(self, row: Row, entering: list[Row]) -> bool:
        """Whether the budget has room for one more row, with its prefixes."""
        rows = [*self.active, *entering, row]
        missing = sum(len(prefix.tokens) for prefix in row.path if prefix.kv is None)
        return len(rows) * max(one.need for one in rows) + self.prefixes.tokens + missing <= self.budget_tokens

    def _make_room(self, rows: list[Row]) -> None:
        """Have a slot for each row and places for what they hold now and soon."""
        need = max(row.need for row in rows)
        now = max(len(row.pending) for row in rows)
        affordable = max(self.budget_tokens // max(need, 1), len(rows))
        if self.own is None:
            slots = min(self.most_rows, len(self.waiting) + len(rows), affordable)
            self.own = OwnKv(self.heads, slots, min(need, now + ROOM_TO_GROW), self.forward.kernels)
        own = self.own
        slots, capacity = own.slots, own.capacity
        if len(rows) > slots:  # twice as many, so that rows which come one by one are not copied each time
            slots = max(len(rows), min(self.most_rows, max(self.late_slots, 2 * slots), affordable))
        if now > capacity:
            capacity = min(need, now + ROOM_TO_GROW)
        if (slots, capacity) != (own.slots, own.capacity):
            own.grow(slots, capacity, len(self.active))
