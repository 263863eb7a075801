"""How many rows there is room for, by the tokens that they may need together and by free memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

from runner_engine.checkpoints.pass_memory import most_rows
from runner_engine.decode.forward import Forward
from runner_engine.decode.prefix_tree import Prefixes
from runner_engine.decode.rows import Row
from runner_engine.kv_cache.kv_cache import Heads, OwnKv, room_tokens
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.shared_kv import own_cost, own_kv
from runner_engine.sessions.base import MEMORY_IS_SHORT
from runner_engine.sessions.stats import EngineStats

SHARE_TO_ENTER = 8  # one in so many rows has to leave before others enter, if decoding waits for that pass


class Room:
    """The scheduler's rows, active and waiting, and their store of keys and values."""

    def __init__(
        self, heads: Heads, stats: EngineStats, forward: Forward, prefixes: Prefixes, asked_rows: int | None
    ) -> None:
        self.heads, self.stats, self.forward, self.prefixes = heads, stats, forward, prefixes
        self.asked_rows = asked_rows  # None: any number
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []  # decoding; they have the first slots of the store, in this order
        self.reading: list[Row] = []  # in the slots behind them: rows whose long prompts are read in pieces
        self.budget_tokens = 0  # whose keys and values may be stored
        self.own: OwnKv | None = None
        self._cost = partial(own_cost, heads, forward.kernels)
        self._empty()

    def _empty(self) -> None:
        """Forget the store, its size, and shortages of memory; a GPU's store stays, for its recorded steps."""
        if self.heads.device.type != "cuda":
            self.own = None
        self.most_rows = self.asked_rows or most_rows(self.heads.device.type, self.heads.stored_dtype.itemsize)
        self.full_at = 0  # number of rows when the next one did not fit; 0: all have fitted
        self.has_noted_shortage = False

    def _set_budget(self) -> None:
        """Set the budget to a share of memory that is free now: other programs use memory, and limits may change."""
        before = self.budget_tokens
        held = 0 if self.own is None else self.own.held
        self.budget_tokens = room_tokens(self.heads, held + self.prefixes.tokens)
        if self.budget_tokens > before + before // SHARE_TO_ENTER:
            self.full_at = 0

    def _may_enter(self, joins_decoding: bool) -> int:
        """Return how many rows may enter now; 0 if they are too few to be worth a pass without decoding."""

        def few(rows: int) -> int:  # a pass for one row costs as much as one for ten
            return 1 if joins_decoding else max(rows // SHARE_TO_ENTER, 1)

        on_way = len(self.active) + len(self.reading)
        free = min(self.most_rows - on_way, len(self.waiting))
        is_full = self.full_at and on_way > self.full_at - few(self.full_at)
        return 0 if self.active and (is_full or free < min(few(self.most_rows), len(self.waiting))) else free

    def _fits(self, row: Row, others: Sequence[Row]) -> bool:
        """Whether the budget has room for another row with its prefixes."""
        missing = sum(prefix.size - prefix.held for prefix in row.needed)
        needs = [one.need for one in others]
        return self._cost([*needs, row.need]) + self.prefixes.tokens + missing <= self.budget_tokens

    def _note_shortage(self, rows: int) -> None:
        """Note once that fewer concurrent rows than requested have room."""
        if self.asked_rows and not self.has_noted_shortage and rows < self.most_rows == self.asked_rows:
            self.has_noted_shortage = True
            tokens = f"{self.budget_tokens:,} tokens of keys and values"
            self.stats.notes.append(f"{MEMORY_IS_SHORT} {tokens}: {rows} rows at once, {self.most_rows} were asked for")

    def _make_room(self, whole: Sequence[Row], long: Sequence[Row]) -> OwnKv:
        """Make a slot for each row that enters: behind the active rows, or for long prompts, behind `reading`."""
        if self.own is None:
            self.own = own_kv(self.heads, self.forward.kernels)
        if isinstance(self.own, PagedSlots):
            self.own.expect({one for row in (*whole, *long) for one in row.path})
        rows = [*self.active, *whole, *self.reading]
        self._enter_rows(self.own, rows, len(self.active), len(whole))
        rows += long
        self._enter_rows(self.own, rows, len(rows) - len(long), len(long))
        cost = self._cost([row.need for row in rows])
        self.own.keep_spare(min(cost, max(self.budget_tokens - self.prefixes.tokens - cost, 0)))
        return self.own

    def _enter_rows(self, own: OwnKv, rows: Sequence[Row], at: int, count: int) -> None:
        """Insert `count` of the rows, from `at` on, into the store."""
        if not count:
            return
        needs = [row.need for row in rows]
        expected = min(
            self.most_rows, len(rows) + len(self.waiting), self.budget_tokens // self._cost([max(*needs, 1)])
        )
        own.enter(at, count, needs, [row.rest + len(row.pending) for row in rows], max(expected, len(rows)))
