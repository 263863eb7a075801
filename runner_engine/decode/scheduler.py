"""Continuous batching: rows enter when there is room and leave when they end, while others go on.

Active rows have the slots 0 … n-1 of the key-value store; when a row ends, the last one moves into its slot. Each
forward pass is a flat list of tokens: a shared prefix, the own prompts of rows that enter, or one token of every row. A
continuation that is to be scored is read in the same pass as its prompt.
On a GPU a step begins before the last one's tokens are read: ahead.py.
When memory runs out, half as many rows continue, and the others continue later from the tokens that they have.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence

from runner_base import FinishReason, is_memory_error, machine
from runner_base.errors import MEMORY_ERRORS
from runner_engine.attention.attention import PrefixUse
from runner_engine.decode.ahead import Ahead
from runner_engine.decode.entering import Entering
from runner_engine.decode.forward import TokenSpan, read_and_score, scored
from runner_engine.decode.prefix_tree import ConversationCache
from runner_engine.decode.prompt_cache import PromptCache
from runner_engine.decode.row_progress import RowProgress
from runner_engine.decode.rows import Row
from runner_engine.decode.sampling import Sampler, sampler_of
from runner_engine.decode.speculation import Speculation
from runner_engine.decode.stopping import Stopping
from runner_engine.kv_cache.kv_cache import Heads
from runner_engine.memory.memory import release_failed_pass
from runner_engine.memory.own_memory import note_kv, note_pass
from runner_engine.models.load import Loaded
from runner_engine.sessions.base import MEMORY_RAN_OUT, Event, RequestId
from runner_engine.sessions.stats import EngineStats, RowCount


class Scheduler(Entering):
    """Decodes rows over one store, which exists while there are rows."""

    def __init__(
        self,
        loaded: Loaded,
        heads: Heads,
        stats: EngineStats,
        stopping: Stopping,
        asked_rows: int | None,
        conversations: ConversationCache,
        prompts: PromptCache,
        speculation: Speculation,
    ) -> None:
        self.stopping, self.count, self.speculation = stopping, RowCount(stats), speculation
        super().__init__(loaded, heads, stats, asked_rows, conversations, prompts)
        self.ahead = Ahead(self.forward)
        self._reset()

    def _reset(self) -> None:
        """Forget earlier rows: their store, its size, and shortages of memory."""
        self._empty()
        self.ahead.drop()
        self.uses: list[PrefixUse] | None = None  # prefixes of the active rows, until the rows change
        self.sampler = Sampler(self.vocab_size, self.heads.device)
        self.at_once = 0  # rows in the current pass; 0 if it reads a prefix and no row is active
        self.others_waited = False  # whether active rows were not in the last pass, so that the next one is theirs
        self.progress = RowProgress()
        self.count.now(0, 0)
        self.stats.kv_tokens, self.stats.under_way = 0, 0.0
        if self.forward.device_step is not None:
            self.stats.decoding_graphs = self.forward.device_step.graphs.summary or self.stats.decoding_graphs

    @property
    def is_busy(self) -> bool:
        """Whether there are rows."""
        return bool(self.active or self.reading or self.waiting)

    def add(self, rows: Sequence[Row], mentioned: Sequence[list[int]] = ()) -> None:
        """Add rows behind those that are waiting; they share beginnings with the prompts that are mentioned, too."""
        if not self.is_busy:
            self._set_budget()
        self.waiting.extend(self.prefixes.arrange(rows, mentioned))

    def cancel(self, ids: Collection[RequestId]) -> list[Event]:
        """End the rows of these requests with the tokens that they have."""
        events: list[Event] = []
        not_decoding = [row for row in (*self.waiting, *self.reading) if row.request.id in ids]
        self.waiting = deque(row for row in self.waiting if row.request.id not in ids)
        for slot, row in reversed(list(enumerate(self.reading, start=len(self.active)))):
            if row.request.id in ids and self.own is not None:
                self.reading.remove(row)
                self.own.leave(slot, slot + 1, is_sound=False)
        ended = [row for row in self.active if row.request.id in ids]
        for row in (*ended, *not_decoding):
            self.stopping.cancel(row, _seconds(row), events)
        for row in not_decoding:
            self.prefixes.release(row)
        events += self._remove_ended(ended)
        if not self.is_busy:
            self._reset()
        return events

    def step(self) -> list[Event]:
        """Let rows enter, or give every active row one more token; return the events."""
        started, prefill_s = time.perf_counter(), self.stats.prefill_s
        self.at_once = len(self.active) + len(self.reading)
        try:
            self._check_memory()
            entered = self._enter()
            events = self._accept_tokens(*entered) if entered else self._step() if self.active else []
        except MEMORY_ERRORS as error:
            events = self._shrink(error)
        passed = time.perf_counter() - started
        self.stats.decode_s += passed - (self.stats.prefill_s - prefill_s)
        self._tell_progress(events)
        if not self.is_busy:
            self._reset()
        return events

    def close(self) -> None:
        """Drop all rows."""
        for row in (*self.active, *self.reading, *self.waiting):
            self.prefixes.release(row)
        self.active, self.reading, self.own = [], [], None
        self.waiting.clear()
        if self.forward.device_step is not None:
            self.forward.device_step.forget()
        self._reset()

    # ---------------------------------------------------------------------------------------- entering

    def _enter(self) -> tuple[list[tuple[Row, int]], list[Event]] | None:
        """Let rows enter and read prompts, if there is room; return first new tokens, and events of scored rows."""
        joins = bool(self.reading and self.forward.kernels)
        free = self._may_enter(joins or (bool(self.waiting) and self._joins_decoding(self.waiting[0])))
        if not (free or self.reading) or (self.active and self.others_waited):
            self.others_waited = False
            return None
        started = time.perf_counter()
        self._update_budget()
        entering: list[Row] = []
        try:
            most = self._most_tokens(len(self.active) if self.forward.kernels else 0)
            long = self._choose(entering, free, most)
            self.stats.prefill_s += time.perf_counter() - started  # prefixes were read
            if not (entering or self.reading):
                return None
            self.at_once += len(entering)
            return self._prefill([row for row in entering if row not in long], long, most)
        except BaseException:
            self.waiting.extendleft(reversed(entering))
            self._requeue_all()
            raise

    def _prefill(self, whole: list[Row], long: list[Row], most: int) -> tuple[list[tuple[Row, int]], list[Event]]:
        """Read prompts of rows that enter, and pieces of long ones; active rows decode in the same pass, or wait.

        Rows with a continuation to score have the last slots, and leave after the pass.
        """
        started = time.perf_counter()
        whole.sort(key=lambda row: row.given is not None)
        own = self._make_room(whole, long)
        reading = [*self.reading, *long]
        first = len(self.active)
        entering = [(slot, row) for slot, row in enumerate([*whole, *reading], start=first) if row not in self.reading]
        self.prefixes.copy(entering, own)
        for slot, row in entering:
            self.prompts.copy(row, own, slot)
            row.places, row.entered_s = row.copied, row.entered_s or started
            self.stats.shared_tokens += row.shared + row.copied
        read = self._pieces(whole, reading, most)
        joins_decoding = bool(self.forward.kernels) if reading else self._joins_decoding(whole[0])
        decoding = self.active[:] if joins_decoding or self.ahead.has_begun else []
        steps = [TokenSpan(row, slot, row.tokens[-1:], row.places) for slot, row in enumerate(decoding)]
        logits = read_and_score(self.forward, own, [*steps, *read] if joins_decoding else read)
        of_decoding = self.ahead.take(decoding)
        if of_decoding is None:
            of_decoding, logits = logits[: len(decoding)], logits[len(decoding) :]
        for piece in read:
            piece.row.places += len(piece.ids)
            own.fill(piece.slot, piece.row.places)
        started_rows = [piece.row for piece in read if piece.is_last and piece.row.given is None]
        ended = [piece for piece in read if piece.is_last and piece.row.given is not None]
        new: list[tuple[Row, int]] = []
        if started_rows or decoding:
            newcomers = sampler_of(started_rows, self.vocab_size, self.heads.device)
            self.stopping.force(of_decoding, decoding)
            self.stopping.force(logits, started_rows)
            picked = self.sampler.pick(of_decoding).tolist() if decoding else []
            picked += newcomers.pick(logits).tolist() if started_rows else []
            new = list(zip([*decoding, *started_rows], picked, strict=True))
            self.sampler.take(newcomers)
            self._note_places(decoding)
        self.active += started_rows
        self.reading = [row for row in reading if row.places < len(row.pending)]
        self.uses = None
        self._note_memory(sum(piece.row.places for piece in ended))
        for row in started_rows:
            row.first_token_s = row.first_token_s or time.perf_counter() - row.entered_s
        events: list[Event] = [scored(piece.row, _seconds(piece.row)) for piece in ended]
        for piece in reversed(ended):
            own.leave(piece.slot, piece.slot + 1, is_sound=piece.row.error is None)
            self.prefixes.release(piece.row)
        tokens = sum(len(piece.ids) for piece in read)
        self.stats.prefill_tokens += tokens
        self.others_waited = bool(first and not decoding and (ended or reading))
        if not (self.waiting or self.reading or decoding):
            machine.trim()  # the process would keep the memory of reading prompts, while the rows will grow
        self.stats.prefill_s += (time.perf_counter() - started) * tokens / (tokens + len(decoding))
        return new, events

    # ---------------------------------------------------------------------------------------- decoding

    def _step(self) -> list[Event]:
        """Give every active row its next token, or several that were guessed."""
        self.at_once = len(self.active) + len(self.reading)
        assert self.own is not None
        longest = max(row.places for row in self.active) + 1
        self.own.lengthen(longest, max(row.need for row in self.active))
        has_begun = self.ahead.has_begun
        if drafts := [] if has_begun else self.speculation.drafts(self.active, self.forward, self.sampler):
            new = self.speculation.check(self.forward, self.own, self.active, drafts, self.sampler)
        else:
            if self.uses is None:
                self.uses = self.forward.uses_of(self.active)
            logits = self.ahead.take(self.active)
            if logits is None:
                logits = self.forward.step(self.own, self.active, self.uses, self.reading)
            self.stopping.force(logits, self.active)
            picked = self.sampler.pick(logits)
            del logits  # the next step needs memory for its own
            self._note_places(self.active)
            tokens = self.ahead.read(picked, self.own, self.active, self.reading)
            new = list(zip(self.active, tokens, strict=True))
        self.speculation.note(len(new) if drafts else None)
        self._note_memory()
        return self._accept_tokens(new, [])

    def _note_places(self, rows: list[Row]) -> None:
        """Note that each of these rows, the first ones, has one more token in its slot."""
        assert self.own is not None
        for slot, row in enumerate(rows):
            row.places += 1
            self.own.fill(slot, row.places)
        self.stats.decode_tokens += len(rows)

    def _note_memory(self, scored_places: int = 0) -> None:
        """Note the memory of keys and values, before rows leave, and the size of the largest pass."""
        tokens = self.prefixes.tokens + sum(row.places for row in (*self.active, *self.reading)) + scored_places
        note_kv(self.stats, tokens * self.heads.bytes_per_token)
        note_pass(self.stats, self.loaded, self.forward.most_tokens, self.forward.most_logits)

    def _accept_tokens(self, new: list[tuple[Row, int]], events: list[Event]) -> list[Event]:
        """Note the new tokens, and remove the rows that end with them."""
        ended: list[Row] = []
        stopped: Row | None = None
        for row, token in new:
            if row is stopped:  # guessed beyond its end, or beyond the end of its thinking
                row.places -= 1
                self.stats.decode_tokens -= 1
            elif not self.stopping.accept(row, token, _seconds(row), events):
                ended.append(row)
                stopped = row
            elif row.thought.forced:
                stopped = row
        return events + self._remove_ended(ended)

    def _remove_ended(self, ended: list[Row]) -> list[Event]:
        """Remove active rows that have ended; their completions must not be lost if memory runs out here."""
        events: list[Event] = []
        problem = None
        try:
            for row in ended:
                self._remove(row)
        except MEMORY_ERRORS as error:
            problem = error
            self.active = [row for row in self.active if row not in ended]
        for row in ended:
            self.prefixes.release(row)
        if problem is not None:
            events += self._shrink(problem)
        return events

    def _remove(self, row: Row) -> None:
        """Remove an active row; the last one moves into its slot."""
        assert self.own is not None
        at, last = self.active.index(row), len(self.active) - 1
        if row.request.keep and row.error is None:
            self.conversations.keep(row, self.own, at, self.budget_tokens)
        self.prompts.keep(row, self.own, at, self.budget_tokens)
        order = list(range(last))
        self.own.leave(at, len(self.active), is_sound=row.error is None)
        if not self.waiting:
            self.own.keep_spare(0)
        if at != last:
            self.active[at] = self.active[last]
            order[at] = last
        self.active.pop()
        self.sampler.keep(order)
        self.uses = None

    def _tell_progress(self, events: list[Event]) -> None:
        """Note how far the rows are."""
        self.progress.note_ended(events)
        on_way = [*self.active, *self.reading]
        self.count.now(len(on_way), len(self.waiting))
        self.stats.kept_tokens = self.prompts.tokens
        self.stats.kv_tokens = self.prefixes.tokens + sum(row.places for row in on_way)
        self.stats.under_way = self.progress.under_way(self.active, self.stats)

    # ------------------------------------------------------------------------------------- out of memory

    def _requeue_all(self) -> None:
        """Move all rows back to `waiting`; they continue later from the tokens that they have."""
        self.waiting.extendleft(reversed([*self.active, *self.reading]))
        self.active, self.reading, self.own, self.uses = [], [], None, None
        self.ahead.drop()
        self.sampler.keep([])
        for row in self.waiting:
            row.places = row.copied = 0
            row.blocks = []
            row.scores.clear()
            row.generator = None  # it may have drawn a number for a token that was not sampled

    def _shrink(self, error: BaseException) -> list[Event]:
        """Move all rows back and continue with half as many; raise an error that is not about memory."""
        if not is_memory_error(error):
            raise error
        at_once = self.at_once
        alone = at_once <= 1 and self.most_rows == 1
        self._requeue_all()
        self.prefixes.forget()
        self.conversations.forget()
        self.prompts.forget()
        if self.forward.device_step is not None:
            self.forward.device_step.forget()
        release_failed_pass(error, self.heads.device)
        self.memory.forget()
        if alone:
            row = self.waiting.popleft()
            self.prefixes.release(row)
            row.error = f"out of memory with its {len(row.prompt) + len(row.given or ())} tokens alone"
            return [self.stopping.completion(row, FinishReason.error, _seconds(row))]
        self.most_rows = max(min(at_once or self.most_rows, self.most_rows) // 2, 1)
        when = f"with {at_once} rows at once" if at_once else "while a shared prefix was read"
        self.stats.notes.append(f"{MEMORY_RAN_OUT} {when}: {self.most_rows} concurrent rows from now on")
        return []


def _seconds(row: Row) -> float:
    """Return the seconds since a row entered."""
    return time.perf_counter() - row.entered_s if row.entered_s else 0.0
