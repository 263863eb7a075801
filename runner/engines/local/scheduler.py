"""Continuous batching: rows enter a stream when there is room and leave it when they end.

Rows that are on their way occupy the slots 0 … n-1 of the key-value store; when one ends, the last one moves into its
slot. Each forward pass is a flat list of tokens: all of a shared prefix, the own prompts of rows that enter, or one
token of every row. When memory runs out, half as many rows go on at once, and those set back continue later from the
tokens that they have.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from runner.config.generation import GenerationConfig
from runner.core import machine
from runner.core.result import FinishReason
from runner.engines.base import MEMORY_IS_SHORT, MEMORY_RAN_OUT, Completion, EngineStats, Event
from runner.engines.local.attention import Use
from runner.engines.local.conversation_cache import Kept
from runner.engines.local.forward import Passes
from runner.engines.local.kv_cache import Heads, OwnKv, SharedKv
from runner.engines.local.prefix_tree import share
from runner.engines.rows import Row
from runner.engines.sampling import Sampler, sampler_of
from runner.engines.stopping import Stopping
from runner.models.load import Loaded

MOST_ROWS = {"cpu": 128, "cuda": 512}  # beyond these, products of matrices get no faster
PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # own prompt tokens that enter in one pass
SHARE_OF_MEMORY = 0.5  # of what is free, for keys and values; activations need room, too
ROOM_TO_GROW = 256  # places beyond the longest own prompt, before the store has to grow
MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)  # torch's own are of the first kind, mmap's of the last
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "DefaultCPUAllocator", "Cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not execute a primitive",  # oneDNN, of products that went well
)  # fmt: skip


class Stream:
    """Decodes rows over one store; made anew for each list of requests."""

    def __init__(
        self,
        loaded: Loaded,
        heads: Heads,
        generation: GenerationConfig,
        seed: int,
        stats: EngineStats,
        stopping: Stopping,
        most_rows: int | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.loaded, self.heads, self.generation, self.seed = loaded, heads, generation, seed
        self.stats, self.stopping, self.kept = stats, stopping, kept or Kept()
        self.passes = Passes(loaded.model, heads)
        self.asked_rows = most_rows or generation.batch_size  # None: nobody minds how many
        self.most_rows = self.asked_rows or MOST_ROWS.get(heads.device.type, 128)
        self.budget_tokens = int(_free_bytes(heads.device) * SHARE_OF_MEMORY / heads.bytes_per_token)
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []
        self.own: OwnKv | None = None
        self.uses: list[Use] | None = None  # prefixes of the active rows, until the rows change
        self.prefix_tokens = 0
        self.at_once = 0  # rows in the pass that failed; 0 when it read a prefix and nobody was on the way
        self.ended_rows = self.ended_tokens = 0
        self.sampler = self._empty_sampler()

    def run(self, rows: Sequence[Row]) -> Iterator[list[Event]]:
        """Yield what came of each pass."""
        for row in rows:
            row.prefix = self.kept.find(row.prompt)
            self.prefix_tokens += row.shared
        self.waiting.extend(_in_order(rows))
        try:
            while self.waiting or self.active:
                started, prefill_s = time.perf_counter(), self.stats.prefill_s
                try:
                    entered = self._enter()
                    ended = self._settle(entered) if entered else self._step()
                except MEMORY_ERRORS as error:
                    ended = self._shrink(error)
                passed = time.perf_counter() - started
                self.stats.decode_s += passed - (self.stats.prefill_s - prefill_s)
                self._tell_progress([one for one in ended if isinstance(one, Completion)])
                yield ended
        finally:
            for row in (*self.active, *self.waiting):
                self._release(row)
            self.active, self.own, self.uses = [], None, None
            self.stats.rows_alive = self.stats.rows_waiting = 0
            self.stats.under_way = 0.0

    # ---------------------------------------------------------------------------------------- entering

    def _enter(self) -> list[tuple[Row, int]]:
        """Let waiting rows in, if it is time and there is room; return them with their first new tokens."""
        most = self.most_rows if self.own is None else min(self.most_rows, self.own.slots)
        free = min(most, len(self.active) + len(self.waiting)) - len(self.active)
        few = min(max(most // 8, 1), len(self.waiting))  # a pass for one row costs as much as one for ten
        if not self.waiting or (self.active and free < few):
            return []
        started = time.perf_counter()
        entering: list[Row] = []
        self.at_once = len(self.active)
        try:
            self._choose(entering, free)
            if not entering:
                return []
            self.at_once += len(entering)
            first = self._prefill(entering)
        except BaseException:
            self.waiting.extendleft(reversed(entering))
            raise
        if not self.waiting:
            machine.trim()  # what reading prompts took would stay with this process, and the rows are still to grow
        self.stats.prefill_s += time.perf_counter() - started
        return list(zip(entering, first, strict=True))

    def _choose(self, entering: list[Row], free: int) -> None:
        """Move rows that enter in this pass from those that wait."""
        tokens = 0
        while self.waiting and len(entering) < free:
            row = self.waiting[0]
            tokens += len(row.pending)
            if entering and tokens > PREFILL_TOKENS.get(self.heads.device.type, 1024):
                break
            if (entering or self.active) and not self._fits(row, entering):
                self._say_short(len(self.active) + len(entering))
                break
            self._make_prefixes(row)
            entering.append(self.waiting.popleft())

    def _say_short(self, rows: int) -> None:
        """Note once that fewer rows than asked for go on at once."""
        if self.asked_rows and rows < self.most_rows == self.asked_rows:
            self.asked_rows = None
            tokens = f"{self.budget_tokens:,} tokens of keys and values"
            self.stats.notes.append(f"{MEMORY_IS_SHORT} {tokens}: {rows} rows at once, {self.most_rows} were asked for")

    def _fits(self, row: Row, entering: list[Row]) -> bool:
        """Whether the budget has room for one more row, with its prefixes."""
        new = sum(len(prefix.tokens) for prefix in (row.prefix.path if row.prefix else []) if prefix.kv is None)
        rows = [*self.active, *entering, row]
        return len(rows) * max(one.need for one in rows) + self.prefix_tokens + new <= self.budget_tokens

    def _make_prefixes(self, row: Row) -> None:
        for prefix in row.prefix.path if row.prefix else []:
            if prefix.kv is not None:
                continue
            self.passes.read_prefix(prefix)
            count = len(prefix.tokens)
            self.prefix_tokens += count
            self.stats.prefill_tokens += count

    def _prefill(self, entering: list[Row]) -> list[int]:
        """Read the own prompts of rows that enter, and return their first new tokens."""
        now = time.perf_counter()
        self._make_room([*self.active, *entering])
        assert self.own is not None
        logits = self.passes.read_prompts(self.own, entering, len(self.active))
        for row in entering:
            row.places = len(row.pending)
            row.entered_s = row.entered_s or now
        self.stats.prefill_tokens += sum(len(row.pending) for row in entering)
        self.stats.shared_tokens += sum(row.shared for row in entering)
        newcomers = sampler_of(entering, int(self.loaded.metrics["vocab_size"]), self.heads.device)
        tokens: list[int] = newcomers.pick(logits).tolist()
        self.sampler.take(newcomers)
        self.active += entering
        self.uses = None
        for row in entering:
            row.first_token_s = row.first_token_s or time.perf_counter() - row.entered_s
        return tokens

    def _empty_sampler(self) -> Sampler:
        vocab_size = int(self.loaded.metrics["vocab_size"])
        return Sampler(vocab_size, self.heads.device)

    def _make_room(self, rows: list[Row]) -> None:
        """Have a slot for each row and places for what they hold now and soon."""
        need = max(row.need for row in rows)
        now = max(len(row.pending) for row in rows)
        if self.own is None:
            slots = min(self.most_rows, len(self.waiting) + len(rows), max(self.budget_tokens // need, len(rows)))
            self.own = OwnKv(self.heads, slots, min(need, now + ROOM_TO_GROW), self.passes.kernels)
        if now > self.own.capacity:
            self.own.grow(min(need, now + ROOM_TO_GROW))

    # ---------------------------------------------------------------------------------------- decoding

    def _step(self) -> list[Event]:
        """Give every active row one more token."""
        self.at_once = len(self.active)
        assert self.own is not None
        longest = max(row.places for row in self.active) + 1
        if longest > self.own.capacity:
            need = max(row.need for row in self.active)
            self.own.grow(min(need, max(longest, int(self.own.capacity * 1.5))))
        if self.uses is None:
            self.uses = self.passes.uses_of(self.active)
        tokens: list[int] = self.sampler.pick(self.passes.step(self.own, self.active, self.uses)).tolist()
        for row in self.active:
            row.places += 1
        self.stats.decode_tokens += len(tokens)
        return self._settle(list(zip(self.active, tokens, strict=True)))

    def _settle(self, new: list[tuple[Row, int]]) -> list[Event]:
        """Note the new tokens, and let go of the rows that end with them."""
        completions: list[Event] = []
        ended: list[Row] = []
        problem = None
        for row, token in new:
            reason = self.stopping.accept(row, token, completions)
            if reason is not None:
                completions.append(self._completion(row, reason))
                ended.append(row)
        try:
            for row in ended:
                self._leave(row)
        except MEMORY_ERRORS as error:  # nothing of those that have ended may get lost
            problem = error
            self.active = [row for row in self.active if row not in ended]
        for row in ended:
            self._release(row)
        if problem is not None:
            completions += self._shrink(problem)
        return completions

    def _tell_progress(self, ended: list[Completion]) -> None:
        """Say how far the rows are, taking those that go on to become as long as those that ended."""
        self.ended_rows += len(ended)
        self.ended_tokens += sum(len(completion.token_ids) for completion in ended)
        usual = self.ended_tokens / self.ended_rows if self.ended_rows else math.inf
        stats = self.stats
        stats.rows_alive, stats.rows_waiting = len(self.active), len(self.waiting)
        stats.under_way = sum(min(len(row.tokens) / min(row.limit, usual), 0.99) for row in self.active)

    def _leave(self, row: Row) -> None:
        """Take a row out; the last one moves into its slot."""
        assert self.own is not None
        if row.request.keep:
            self._keep(row)
        at, last = self.active.index(row), len(self.active) - 1
        order = list(range(last))
        if at != last:
            self.own.move(last, at, self.active[last].places)
            self.active[at] = self.active[last]
            order[at] = last
        self.active.pop()
        self.sampler.keep(torch.tensor(order, dtype=torch.long, device=self.heads.device))
        self.uses = None

    def _keep(self, row: Row) -> None:
        """Keep what was computed for a row; its last token has not been through the model."""
        assert self.own is not None
        slot, above = self.active.index(row), row.prefix.path if row.prefix else []
        kv = SharedKv.empty(self.heads, row.shared + row.places, self.passes.kernels)
        for layer in range(self.heads.layers):
            parts = [*(prefix.kv.read(layer) for prefix in above), self.own.read(layer, slot, row.places)]
            keys, values = (torch.cat(some, dim=1) for some in zip(*parts, strict=True))
            kv.write(layer, keys, values)
        self.kept.add((row.prompt + row.tokens)[: kv.length], kv, self.budget_tokens)

    def _release(self, row: Row) -> None:
        for prefix in row.prefix.path if row.prefix else []:
            prefix.users -= 1
            if prefix.users == 0 and prefix.kv is not None:
                prefix.kv = None
                self.prefix_tokens -= len(prefix.tokens)

    def _completion(self, row: Row, reason: FinishReason, error: str | None = None) -> Completion:
        seconds = time.perf_counter() - row.entered_s if row.entered_s else 0.0
        return self.stopping.completion(row, reason, seconds, error)

    # ------------------------------------------------------------------------------------- out of memory

    def _shrink(self, error: BaseException) -> list[Event]:
        """Set all rows back and go on with half as many at once; an error that is none of memory goes on its way."""
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise error
        at_once = self.at_once
        alone = at_once <= 1 and self.most_rows == 1
        back = [*self.active]
        self.active, self.own, self.uses = [], None, None
        self.sampler.keep(torch.tensor([], dtype=torch.long, device=self.heads.device))
        self.waiting.extendleft(reversed(back))
        for row in self.waiting:
            row.places = 0
            for prefix in row.prefix.path if row.prefix else []:
                prefix.kv = None
        self.prefix_tokens = 0
        error.__traceback__ = None  # it holds the tensors of the pass that failed
        if self.heads.device.type == "cuda":
            torch.cuda.empty_cache()
        if alone:
            row = self.waiting.popleft()
            self._release(row)
            return [self._completion(row, FinishReason.error, f"out of memory with its {len(row.prompt)} tokens alone")]
        self.most_rows = max(min(at_once or self.most_rows, self.most_rows) // 2, 1)
        when = f"with {at_once} rows at once" if at_once else "while a beginning that prompts share was read"
        self.stats.notes.append(f"{MEMORY_RAN_OUT} {when}: {self.most_rows} at once from there on")
        return []


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """Find what rows share, and put those of one prefix together, the longest first."""
    new = [row for row in rows if row.prefix is None]  # the others go on from a conversation
    for row, prefix in zip(new, share([row.prompt for row in new]), strict=True):
        row.prefix = prefix
    for row in rows:
        for one in row.prefix.path if row.prefix else []:
            one.users += 1
    roots: dict[int, int] = {}
    places = {id(row): tuple(roots.setdefault(id(one), len(roots)) for one in row.prefix.path) if row.prefix else ()
              for row in rows}  # fmt: skip
    return sorted(rows, key=lambda row: (places[id(row)], -row.need))


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free)
    return machine.available_mib() * machine.MIB
