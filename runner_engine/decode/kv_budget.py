"""The scheduler's part of memory: where rows have their keys and values, and how many more tokens there is room for.

Rows share prefixes (a prefix tree), get copies of what earlier prompts left (a prompt cache, conversations), and have
places of their own in one store, which exists while there are rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from runner_engine.decode.passes import Forward
from runner_engine.decode.rows import Row, RowsUnderWay
from runner_engine.kv_cache import (
    ConversationCache,
    OwnKv,
    PagedSlots,
    Prefixes,
    PromptCache,
    kept_tokens,
    own_cost,
    own_kv,
    put_state,
    room_tokens,
)
from runner_engine.memory import MemoryGuard, release_failed_pass
from runner_engine.sessions import EngineStats

GROWN = 8  # a budget has grown if it is larger by one in so many tokens


class KvBudget:
    """Keys and values of a scheduler's rows, within a budget of tokens that follows free memory."""

    def __init__(
        self,
        forward: Forward,
        stats: EngineStats,
        conversations: ConversationCache,
        prompts: PromptCache,
        beside: int = 0,
        beside_row: int = 0,
        copies_states: bool = False,
    ) -> None:
        """beside, beside_row: bytes that a draft model keeps for each token, and for each row, besides
        those here; copies_states: whether states are copied before guesses are read."""
        self.forward, self.heads, self.stats = forward, forward.heads, stats
        self.conversations, self.prompts = conversations, prompts
        self.prefixes = Prefixes(self.heads, forward.most_prefixes, conversations)
        self.memory = MemoryGuard(forward.model, self.heads.device)
        own_bytes = self.heads.bytes_per_token
        # of each row, in tokens: copies of its states, and what a draft keeps of it
        self.copied = self.heads.state_tokens * copies_states + ceil(beside_row / own_bytes)
        self.kept_tokens = kept_tokens(self.heads)
        self.share = own_bytes / (own_bytes + beside)  # of the memory for keys and values
        self.own: OwnKv | None = None  # the rows' own keys and values, by slot
        self.tokens = 0  # the budget: whose keys and values may be stored
        self._measured_s = 0.0  # when the free memory was measured from which the budget was computed

    def reset(self) -> None:
        """Forget the store; a GPU's stays, for its recorded steps."""
        if self.heads.device.type != "cuda":
            self.own = None

    def drop(self) -> None:
        """Drop the store with all that rows have in it."""
        self.own = None

    # ------------------------------------------------------------------------------------- how much

    def set_budget(self) -> bool:
        """Set the budget to a share of memory that is free now, as other programs use it; return
        whether it grew."""
        before = self.tokens
        held = 0 if self.own is None else self.own.held_with_states
        room = room_tokens(self.heads, held + self.prefixes.tokens)
        self.tokens = self.prefixes.budget = int(room * self.share)
        return self.tokens > before + before // GROWN

    def is_outdated(self) -> bool:
        """Whether free memory was measured since the last time, so that the budget is to be set
        again."""
        self.memory.look()
        is_outdated = self.memory.looked_s != self._measured_s
        self._measured_s = self.memory.looked_s
        return is_outdated

    def check_memory(self, rows: int) -> None:
        """Raise MemoryError if the next token of so many rows may not fit; unused arenas are freed
        first."""
        try:
            self.memory.check(rows)
        except MemoryError:
            if not self.free_spare():
                raise
            self.memory.forget()
            self.memory.check(rows)

    def free_spare(self) -> bool:
        """Free arenas that no row uses; return whether there were any."""
        return self.own is not None and self.own.keep_spare(0)

    def cost(self, needs: Sequence[int]) -> int:
        """Return what rows with such needs take together, in tokens."""
        return own_cost(self.heads, self.forward.kernels, needs) + len(needs) * self.copied

    def fits(self, row: Row, others: Sequence[Row]) -> bool:
        """Whether the budget has room for another row with its prefixes."""
        missing = sum(prefix.size - prefix.held - prefix.freed for prefix in row.kv.needed)
        needs = [self._kept(one) for one in (*others, row)]
        return self.cost(needs) + self.prefixes.tokens + missing <= self.tokens

    def _kept(self, row: Row) -> int:
        """Return as many tokens as the memory of a row has room for when it ends."""
        frees_places = self.forward.kernels is not None and not _is_kept_whole(row)
        return self.kept_tokens(row.need) if frees_places else row.need

    def stored_bytes(self, rows: Sequence[Row]) -> int:
        """Return the memory of all prefixes, and of these rows, at the end of a pass, before what
        it frees is free."""
        if not self.heads.layers:  # states alone
            return self.heads.bytes_per_token * self.heads.state_tokens * len(rows)
        freed = 0 if self.own is None else self.own.freed_before_pass()
        beginnings = self.prefixes.beginnings + sum(not row.kv.path for row in rows)
        of_first = self.heads.first_plain_bytes * beginnings
        return self.heads.bytes_per_token * (self.stored(rows) - freed) + of_first

    def stored(self, rows: Sequence[Row]) -> int:
        """Return of how many tokens keys and values are stored: of all prefixes, and of these rows,
        with states."""
        return self.prefixes.tokens + sum(row.kv.places + self.heads.state_tokens for row in rows)

    # ----------------------------------------------------------------------------- rows come and go

    def find_copies(self, row: Row) -> None:
        """Note in a row which of its pending tokens earlier prompts, or a prefix, have left."""
        row.kv.blocks, row.kv.copied = [], 0
        if row.request.recurring and row.given is None and not self.heads.states:
            self.prompts.find(row.kv, row.prompt, row.pending)
        self.prefixes.find_copy(row.kv)

    def make_room(
        self, rows: RowsUnderWay, whole: Sequence[Row], long: Sequence[Row], most_rows: int
    ) -> OwnKv:
        """Make a slot for each row that enters: behind the active rows, or for long prompts, behind
        `reading`."""
        if self.own is None:
            self.own = own_kv(self.heads, self.forward.kernels)
        if isinstance(self.own, PagedSlots):
            self.own.expect({prefix for row in (*whole, *long) for prefix in row.kv.path})
        before_long = [*rows.active, *whole, *rows.reading]
        all_rows = [*before_long, *long]
        to_come = len(rows.waiting)
        self._insert(
            self.own, before_long, len(rows.active), len(whole), min(most_rows, len(before_long) + to_come)
        )
        self._insert(self.own, all_rows, len(before_long), len(long), min(most_rows, len(all_rows) + to_come))
        cost = self.cost([self._kept(row) for row in all_rows])
        self.own.keep_spare(min(cost, max(self.tokens - self.prefixes.tokens - cost, 0)))
        return self.own

    def _insert(self, own: OwnKv, rows: Sequence[Row], at: int, count: int, expected: int) -> None:
        """Insert `count` of the rows, from `at` on, into the store; expected: how many rows may
        come to be in it."""
        if not count:
            return
        needs = [row.need for row in rows]
        kept = max(*(self._kept(row) for row in rows), 1)
        expected = min(expected, self.tokens // self.cost([kept]))
        own.insert(
            at, count, needs, [row.kv.rest + len(row.pending) for row in rows], max(expected, len(rows))
        )

    def begin(self, entering: Sequence[tuple[int, Row]]) -> None:
        """Copy into the slots of rows that enter what was found for them."""
        assert self.own is not None
        self.prefixes.copy([(slot, row.kv) for slot, row in entering], self.own)
        for slot, row in entering:
            put_state(self.own, slot, row.kv.prefix)
            self.own.set_beginning(slot, not row.kv.path)
            if _is_kept_whole(row):
                self.own.keep_whole(slot)
            self.prompts.copy(row.kv, self.own, slot)
            row.kv.places = row.kv.copied
            self.stats.shared_tokens += row.kv.shared + row.kv.copied

    def lengthen(self, rows: Sequence[Row]) -> OwnKv:
        """Make room for the next token of each row."""
        assert self.own is not None
        self.own.lengthen(max(row.kv.places for row in rows) + 1, max(row.need for row in rows))
        return self.own

    def keep(self, row: Row, slot: int) -> None:
        """Keep what later prompts can use of a row that ends."""
        assert self.own is not None
        if row.error is not None:
            return
        # these cannot be cut back to a block of the prompt cache
        has_states = bool(self.heads.states)
        states = self.own.states
        if states is not None and states.read[slot] != row.kv.shared + row.kv.places:
            return  # it stands for guessed tokens behind the row's end
        if row.request.keep or (row.request.recurring and has_states):
            self.conversations.keep(row.prompt + row.tokens, row.kv, self.own, slot, self.tokens)
        if row.request.recurring and not has_states:
            self.prompts.keep(row.kv, row.prompt, row.tokens, self.own, slot, self.tokens)

    def leave(self, slot: int, rows: int, is_sound: bool) -> None:
        """Free a slot; the last one of so many rows moves into it. is_sound: it has no NaN."""
        assert self.own is not None
        self.own.remove(slot, rows, is_sound)

    def release(self, row: Row) -> None:
        """Free the prefixes that only this row has used."""
        is_kept = row.error is None and (row.request.keep or row.request.recurring)
        self.prefixes.release(row.kv, is_kept)

    def free(self, error: BaseException) -> None:
        """Free everything after a pass that has failed: all that is needed is computed again."""
        self.drop()
        self.prefixes.forget()
        self.conversations.forget()
        self.prompts.forget()
        self.forward.forget_recorded()
        release_failed_pass(error, self.heads.device)
        self.memory.forget()


def _is_kept_whole(row: Row) -> bool:
    """Whether later prompts may begin with any part of it: then windows free nothing of it."""
    return row.request.keep or row.request.recurring
