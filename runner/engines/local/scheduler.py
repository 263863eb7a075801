"""Continuous batching: rows enter when there is room and leave when they end, while others go on.

Rows that are on their way occupy the slots 0 … n-1 of the key-value store; when one ends, the last one moves into its
slot. Each forward pass is a flat list of tokens: all of a shared prefix, the own prompts of rows that enter, or one
token of every row. A continuation that is to be scored takes part in the pass that reads its prompt, and in no other.
When memory runs out, half as many rows go on at once, and those set back continue later from the tokens that they have.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Sequence

import torch

from runner.core import machine
from runner.core.errors import MEMORY_ERRORS, is_memory_error
from runner.core.result import FinishReason
from runner.engines.base import MEMORY_IS_SHORT, MEMORY_RAN_OUT, Completion, EngineStats, Event, RequestId, RowCount
from runner.engines.local.attention import Use
from runner.engines.local.forward import Forward, most_positions, read_entering, scored
from runner.engines.local.kv_cache import Heads, OwnKv, room_tokens
from runner.engines.local.memory import Watch, let_go
from runner.engines.local.prefix_tree import ConversationCache, Prefixes
from runner.engines.rows import Row, Stopping
from runner.engines.sampling import Sampler, sampler_of
from runner.models.load import Loaded

MOST_ROWS = {"cpu": 128, "cuda": 512}  # beyond these, products of matrices get no faster
PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # own prompt tokens that enter in one pass
ROOM_TO_GROW = 256  # places beyond the longest own prompt, before the store has to grow


class Scheduler:
    """Decodes rows over one store, which is made when rows come and goes when the last one has left."""

    def __init__(
        self,
        loaded: Loaded,
        heads: Heads,
        stats: EngineStats,
        stopping: Stopping,
        asked_rows: int | None,
        conversations: ConversationCache,
    ) -> None:
        self.heads, self.stats, self.stopping, self.count = heads, stats, stopping, RowCount(stats)
        self.asked_rows = asked_rows  # None: nobody minds how many
        self.conversations = conversations
        self.forward = Forward(loaded.model, heads)
        self.prefixes = Prefixes(self.forward, stats, self.conversations)
        self.vocab_size = int(loaded.metrics["vocab_size"])
        self.most_positions = most_positions(heads.device, self.vocab_size)
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []
        self.memory = Watch(loaded.model, heads.device)
        self.budget_tokens = 0  # whose keys and values may be held
        self._rest()

    def _rest(self) -> None:
        """Forget what an earlier lot of rows has left behind: the store, its size, and what was learned of memory."""
        self.own: OwnKv | None = None
        self.uses: list[Use] | None = None  # prefixes of the active rows, until the rows change
        self.sampler = Sampler(self.vocab_size, self.heads.device)
        self.most_rows = self.asked_rows or MOST_ROWS.get(self.heads.device.type, 128)
        self.late_slots = 0  # that rows would need which came after the store was made
        self.at_once = 0  # rows in the pass that failed; 0 when it read a prefix and nobody was on the way
        self.has_said_short = self.has_just_scored = False
        self.ended_rows = self.ended_tokens = 0
        self.count.now(0, 0)
        self.stats.kv_tokens, self.stats.under_way = 0, 0.0

    @property
    def is_busy(self) -> bool:
        """Whether rows are on their way."""
        return bool(self.active or self.waiting)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait for their turn, behind those that wait already."""
        if not self.is_busy:
            self._set_budget()
        self.waiting.extend(self.prefixes.arrange(rows))
        if self.own is not None:
            self.late_slots = self._affordable_slots()

    def cancel(self, ids: Collection[RequestId]) -> list[Event]:
        """End the rows of these requests, with what they have got so far."""
        events: list[Event] = []
        out = [row for row in self.waiting if row.request.id in ids]
        self.waiting = deque(row for row in self.waiting if row.request.id not in ids)
        ended = [row for row in self.active if row.request.id in ids]
        for row in (*ended, *out):
            self.stopping.cancel(row, _seconds(row), events)
        for row in out:
            self.prefixes.release(row)
        events += self._let_go(ended)
        if not self.is_busy:
            self._rest()
        return events

    def step(self) -> list[Event]:
        """Let rows in or give every active row one more token; return what came of it."""
        started, prefill_s = time.perf_counter(), self.stats.prefill_s
        self.at_once = len(self.active)
        try:
            self.memory.check(len(self.active))
            entered = self._enter()
            events = self._step() if entered is None else self._settle(*entered)
        except MEMORY_ERRORS as error:
            events = self._shrink(error)
        passed = time.perf_counter() - started
        self.stats.decode_s += passed - (self.stats.prefill_s - prefill_s)
        self._tell_progress(events)
        if not self.is_busy:
            self._rest()
        return events

    def close(self) -> None:
        """Let go of all rows."""
        for row in (*self.active, *self.waiting):
            self.prefixes.release(row)
        self.active = []
        self.waiting.clear()
        self._rest()

    # ---------------------------------------------------------------------------------------- entering

    def _enter(self) -> tuple[list[tuple[Row, int]], list[Event]] | None:
        """Let waiting rows in, if it is time and there is room; return their first new tokens, and what was scored."""
        most = self.most_rows
        if self.own is not None:
            most = min(most, max(self.own.slots, self.late_slots))
        free = min(most, len(self.active) + len(self.waiting)) - len(self.active)
        few = min(max(most // 8, 1), len(self.waiting))  # a pass for one row costs as much as one for ten
        if not self.waiting or (self.active and (free < few or self.has_just_scored)):
            self.has_just_scored = False
            return None
        started = time.perf_counter()
        entering: list[Row] = []
        if self.memory.look():
            self._set_budget()
            if self.own is not None and (slots := self._affordable_slots()) >= 2 * self.own.slots:  # it grows by a copy
                self.late_slots = slots
        try:
            self._choose(entering, free)
            if not entering:
                return None
            self.at_once += len(entering)
            entered = self._prefill(entering)
        except BaseException:
            self.waiting.extendleft(reversed(entering))
            raise
        if not self.waiting:
            machine.trim()  # what reading prompts took would stay with this process, and the rows are still to grow
        self.stats.prefill_s += time.perf_counter() - started
        return entered

    def _set_budget(self) -> None:
        """Let rows hold a share of what memory has now: other programs take from it, and limits may change."""
        held = 0 if self.own is None else self.own.held
        self.budget_tokens = room_tokens(self.heads, held + self.prefixes.tokens)

    def _affordable_slots(self) -> int:
        """Return how many of the rows that are here could be on their way together."""
        need = max(row.need for row in (*self.active, *self.waiting))
        affordable = max(self.budget_tokens // max(need, 1), len(self.active))
        return min(self.most_rows, len(self.active) + len(self.waiting), affordable)

    def _choose(self, entering: list[Row], free: int) -> None:
        """Move rows that enter in this pass from those that wait."""
        tokens = positions = 0
        most = self.memory.most_tokens(PREFILL_TOKENS.get(self.heads.device.type, 1024))
        while self.waiting and len(entering) < free:
            row = self.waiting[0]
            tokens += len(row.pending)
            positions += len(row.given or ())
            if entering and tokens > most:
                break
            if entering and row.given is not None and positions > self.most_positions:
                break
            if (entering or self.active) and not self._fits(row, entering):
                self._say_short(len(self.active) + len(entering))
                break
            self.prefixes.compute(row)
            entering.append(self.waiting.popleft())

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

    def _prefill(self, entering: list[Row]) -> tuple[list[tuple[Row, int]], list[Event]]:
        """Read the own prompts of rows that enter; those with a continuation to score lie last, and leave at once."""
        now = time.perf_counter()
        self._make_room([*self.active, *entering])
        rows = [row for row in entering if row.given is None]
        given = [row for row in entering if row.given is not None]
        assert self.own is not None
        logits = read_entering(self.forward, self.own, rows, given, len(self.active), self.most_positions)
        for row in entering:
            row.entered_s = row.entered_s or now
        for slot, row in enumerate([*rows, *given], start=len(self.active)):
            self.own.fill(slot, len(row.pending))
        for row in rows:
            row.places = len(row.pending)
        self.stats.prefill_tokens += sum(len(row.pending) for row in entering)
        self.stats.shared_tokens += sum(row.shared for row in entering)
        first: list[tuple[Row, int]] = []
        if rows:
            newcomers = sampler_of(rows, self.vocab_size, self.heads.device)
            first = list(zip(rows, newcomers.pick(logits).tolist(), strict=True))
            self.sampler.take(newcomers)
            self.active += rows
            self.uses = None
        for row in rows:
            row.first_token_s = row.first_token_s or time.perf_counter() - row.entered_s
        for row in given:
            self.prefixes.release(row)
        self.has_just_scored = bool(given)
        return first, [scored(row, _seconds(row)) for row in given]

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

    # ---------------------------------------------------------------------------------------- decoding

    def _step(self) -> list[Event]:
        """Give every active row one more token."""
        self.at_once = len(self.active)
        assert self.own is not None
        longest = max(row.places for row in self.active) + 1
        if longest > self.own.capacity:
            need = max(row.need for row in self.active)
            capacity = min(need, max(longest, int(self.own.capacity * 1.5)))
            self.own.grow(self.own.slots, capacity, len(self.active))
        if self.uses is None:
            self.uses = self.forward.uses_of(self.active)
        tokens: list[int] = self.sampler.pick(self.forward.step(self.own, self.active, self.uses)).tolist()
        for slot, row in enumerate(self.active):
            row.places += 1
            self.own.fill(slot, row.places)
        self.stats.decode_tokens += len(tokens)
        return self._settle(list(zip(self.active, tokens, strict=True)), [])

    def _settle(self, new: list[tuple[Row, int]], events: list[Event]) -> list[Event]:
        """Note the new tokens, and let go of the rows that end with them."""
        ended: list[Row] = []
        for row, token in new:
            if not self.stopping.accept(row, token, _seconds(row), events):
                ended.append(row)
        return events + self._let_go(ended)

    def _let_go(self, ended: list[Row]) -> list[Event]:
        """Take out active rows that have ended; nothing of them may get lost when memory runs out with that."""
        events: list[Event] = []
        problem = None
        try:
            for row in ended:
                self._leave(row)
        except MEMORY_ERRORS as error:
            problem = error
            self.active = [row for row in self.active if row not in ended]
        for row in ended:
            self.prefixes.release(row)
        if problem is not None:
            events += self._shrink(problem)
        return events

    def _leave(self, row: Row) -> None:
        """Take a row out; the last one moves into its slot."""
        assert self.own is not None
        at, last = self.active.index(row), len(self.active) - 1
        if row.request.keep and row.error is None:
            self.conversations.keep(row, self.own, at, self.budget_tokens)
        order = list(range(last))
        if at != last:
            self.own.move(last, at, self.active[last].places)
            self.active[at] = self.active[last]
            order[at] = last
        self.active.pop()
        self.sampler.keep(torch.tensor(order, dtype=torch.long, device=self.heads.device))
        self.uses = None

    def _tell_progress(self, events: list[Event]) -> None:
        """Say how far the rows are, taking those that go on to become as long as those that ended."""
        for event in events:
            if isinstance(event, Completion) and event.token_ids and event.logprobs is None:
                self.ended_rows += 1
                self.ended_tokens += len(event.token_ids)
        usual = self.ended_tokens / self.ended_rows if self.ended_rows else math.inf
        self.count.now(len(self.active), len(self.waiting))
        self.stats.kv_tokens = self.prefixes.tokens + sum(row.places for row in self.active)
        self.stats.under_way = sum(min(len(row.tokens) / min(row.limit, usual), 0.99) for row in self.active)

    # ------------------------------------------------------------------------------------- out of memory

    def _shrink(self, error: BaseException) -> list[Event]:
        """Set all rows back and go on with half as many at once; an error that is none of memory goes on its way."""
        if not is_memory_error(error):
            raise error
        at_once = self.at_once
        alone = at_once <= 1 and self.most_rows == 1
        back = [*self.active]
        self.active, self.own, self.uses = [], None, None
        self.sampler.keep(torch.tensor([], dtype=torch.long, device=self.heads.device))
        self.waiting.extendleft(reversed(back))
        for row in self.waiting:
            row.places = 0
            row.unscore()
        self.prefixes.forget()
        self.conversations.forget()
        let_go(error, self.heads.device)
        self.memory.forget()
        if alone:
            row = self.waiting.popleft()
            self.prefixes.release(row)
            row.error = f"out of memory with its {len(row.prompt) + len(row.given or ())} tokens alone"
            return [self.stopping.completion(row, FinishReason.error, _seconds(row))]
        self.most_rows = max(min(at_once or self.most_rows, self.most_rows) // 2, 1)
        when = f"with {at_once} rows at once" if at_once else "while a beginning that prompts share was read"
        self.stats.notes.append(f"{MEMORY_RAN_OUT} {when}: {self.most_rows} at once from there on")
        return []


def _seconds(row: Row) -> float:
    """Return how long a row has been on its way."""
    return time.perf_counter() - row.entered_s if row.entered_s else 0.0
