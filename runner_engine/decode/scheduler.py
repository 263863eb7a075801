"""Continuous batching: rows enter when there is room and leave when they end, while others go on.

Active rows have the slots 0 … n-1 of the key-value store; when a row ends, the last one moves into its slot. Each
forward pass is a flat list of tokens: a shared prefix, the own prompts of rows that enter, or one token of every row. A
continuation that is to be scored is read in the same pass as its prompt.
When memory runs out, half as many rows continue, and the others continue later from the tokens that they have.

`Admission` says who comes in and when, `KvBudget` has their keys and values, `Decoder` computes their tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from runner_base import MEMORY_ERRORS, FinishReason, is_memory_error, trim
from runner_base.notes import note
from runner_engine.decode.admission import Admission
from runner_engine.decode.decoder import Decoder, NewTokens
from runner_engine.decode.kv_budget import KvBudget
from runner_engine.decode.row_progress import RowProgress
from runner_engine.decode.rows import Row, RowsUnderWay
from runner_engine.decode.tokens import Guesses, Stopping, scored
from runner_engine.kv_cache import ConversationCache, Heads, PromptCache
from runner_engine.memory import PeakMemory
from runner_engine.sessions import EngineStats, Event, RequestId, RowCount, RowShortage


class Scheduler:
    """Decodes rows over one store, which exists while there are rows."""

    def __init__(
        self,
        model: Any,
        heads: Heads,
        vocab_size: int,
        stats: EngineStats,
        peaks: PeakMemory,
        stopping: Stopping,
        asked_rows: int | None,
        conversations: ConversationCache,
        prompts: PromptCache,
        speculation: Guesses,
    ) -> None:
        self.stats, self.peaks, self.stopping, self.count = stats, peaks, stopping, RowCount(stats)
        self.rows = RowsUnderWay()
        self.decoder = Decoder(model, heads, vocab_size, stats, stopping, speculation)
        self.kv = KvBudget(
            self.decoder.forward,
            stats,
            conversations,
            prompts,
            speculation.bytes_per_token,
            speculation.bytes_per_row,
            speculation.copies_states,
        )
        self.admission = Admission(self.rows, self.kv, self.decoder, stats, asked_rows)
        self._reset()

    def _reset(self) -> None:
        """Forget earlier rows: their store, its size, and shortages of memory."""
        self.kv.reset()
        self.admission.reset()
        self.decoder.reset()
        self.at_once = 0  # rows in the current pass; 0 if it reads a prefix and no row is active
        self.others_waited = (
            False  # whether active rows were not in the last pass, so that the next one is theirs
        )
        self.progress = RowProgress()
        self.count.now(0, 0)
        self.stats.kv_tokens, self.stats.under_way = 0, 0.0
        self.stats.decoding_graphs = self.decoder.forward.recorded or self.stats.decoding_graphs

    @property
    def is_busy(self) -> bool:
        return bool(self.rows.active or self.rows.reading or self.rows.waiting)

    def add(self, rows: Sequence[Row], mentioned: Sequence[list[int]] = ()) -> None:
        """Add rows behind those that are waiting; they share beginnings with the prompts that are
        mentioned, too."""
        if not self.is_busy:
            self.admission.set_budget()
        self.admission.add(rows, mentioned)

    def cancel(self, ids: Collection[RequestId]) -> list[Event]:
        """End the rows of these requests with the tokens that they have."""
        events: list[Event] = []
        rows = self.rows
        not_decoding = [row for row in (*rows.waiting, *rows.reading) if row.request.id in ids]
        rows.waiting = deque(row for row in rows.waiting if row.request.id not in ids)
        for slot, row in reversed(list(enumerate(rows.reading, start=len(rows.active)))):
            if row.request.id in ids and self.kv.own is not None:
                rows.reading.remove(row)
                self.kv.leave(slot, slot + 1, is_sound=False)
        ended = [row for row in rows.active if row.request.id in ids]
        for row in (*ended, *not_decoding):
            self.stopping.cancel(row, _seconds(row), events)
        for row in not_decoding:
            self.kv.release(row)
        events += self._remove_ended(ended)
        if not self.is_busy:
            self._reset()
        return events

    def step(self) -> list[Event]:
        """Let rows enter, or give every active row one more token; return the events."""
        started, prefill_s = time.perf_counter(), self.stats.prefill_s
        self.at_once = len(self.rows.in_slots)
        try:
            self.kv.check_memory(len(self.rows.active))
            events = self._enter()
            if events is None:
                events = self._decode() if self.rows.active else []
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
        for row in (*self.rows.active, *self.rows.reading, *self.rows.waiting):
            self.kv.release(row)
        self.rows.active, self.rows.reading = [], []
        self.rows.waiting.clear()
        self.kv.drop()
        self.decoder.forward.forget_recorded()
        self._reset()

    # ------------------------------------------------------------------------------------- entering

    def _enter(self) -> list[Event] | None:
        """Let rows enter and read prompts, if there is room; None if nothing was read and active
        rows go on."""
        free = self.admission.may_enter()
        if not (free or self.rows.reading) or (self.rows.active and self.others_waited):
            self.others_waited = False
            return None
        started = time.perf_counter()
        if self.kv.is_outdated():
            self.admission.set_budget()
        entering: list[Row] = []
        try:
            most = self.admission.most_tokens()
            long = self.admission.choose(entering, free, most)
            self.stats.prefill_s += time.perf_counter() - started  # prefixes were read
            if not (entering or self.rows.reading):
                return None
            self.at_once += len(entering)
            new, events = self._prefill([row for row in entering if row not in long], long, most)
        except BaseException:
            self.rows.waiting.extendleft(reversed(entering))
            self._requeue_all()
            raise
        return self._accept_tokens(new, events)

    def _prefill(self, whole: list[Row], long: list[Row], most: int) -> tuple[NewTokens, list[Event]]:
        """Read prompts of rows that enter, and pieces of long ones; active rows decode in the same
        pass, or wait.

        Return new tokens, and events of scored rows: those have the last slots, and leave after the
        pass.
        """
        started, rows = time.perf_counter(), self.rows
        whole.sort(key=lambda row: row.given is not None)
        own = self.kv.make_room(rows, whole, long, self.admission.most_rows)
        reading, first = [*rows.reading, *long], len(rows.active)
        entering = [
            (slot, row) for slot, row in enumerate([*whole, *reading], start=first) if row not in rows.reading
        ]
        self.kv.begin(entering)
        for _, row in entering:
            row.entered_s = row.entered_s or started
        pieces = self.admission.pieces(whole, reading, most)
        joins_decoding = self.decoder.has_kernels if reading else self.admission.joins_decoding(whole[0])
        decoding = rows.active[:] if joins_decoding or self.decoder.has_begun_step else []
        new = self.decoder.read(own, pieces, decoding, joins_decoding)
        started_rows = [row for row, _ in new[len(decoding) :]]
        ended = [piece for piece in pieces if piece.is_last and piece.row.given is not None]
        rows.active += started_rows
        rows.reading = [row for row in reading if row.kv.places < len(row.pending)]
        self._note_memory([piece.row for piece in ended])
        for row in started_rows:
            row.first_token_s = row.first_token_s or time.perf_counter() - row.entered_s
        events: list[Event] = [scored(piece.row, _seconds(piece.row)) for piece in ended]
        for piece in reversed(ended):
            self.kv.leave(piece.slot, piece.slot + 1, is_sound=piece.row.error is None)
            self.kv.release(piece.row)
        tokens = sum(len(piece.ids) for piece in pieces)
        self.stats.prefill_tokens += tokens
        self.others_waited = bool(first and not decoding and (ended or reading))
        if not (rows.waiting or rows.reading or decoding):
            trim()  # the process would keep the memory of reading prompts, while the rows will grow
        passed = time.perf_counter() - started
        if reading and decoding:
            self.admission.pace.note(tokens, passed)
        self.stats.prefill_s += passed * tokens / (tokens + len(decoding))
        return new, events

    # ------------------------------------------------------------------------------------- decoding

    def _decode(self) -> list[Event]:
        """Give every active row its next token, or several that were guessed."""
        rows = self.rows
        self.at_once = len(rows.in_slots)
        own = self.kv.lengthen(rows.active)
        new = self.decoder.step(own, rows.active, rows.reading)
        self._note_memory()
        return self._accept_tokens(new, [])

    def _note_memory(self, leaving: Sequence[Row] = ()) -> None:
        """Note the memory of keys and values, before rows leave, and the size of the largest
        pass."""
        forward = self.decoder.forward
        self.peaks.note_kv(self.kv.stored_bytes([*self.rows.in_slots, *leaving]))
        self.peaks.note_pass(forward.most_tokens, forward.most_logits)

    def _accept_tokens(self, new: NewTokens, events: list[Event]) -> list[Event]:
        """Note the new tokens, and remove the rows that end with them."""
        ended: list[Row] = []
        stopped: Row | None = None
        for row, token in new:
            if row is stopped:  # guessed beyond its end, or beyond the end of its thinking
                row.kv.places -= 1
                self.stats.decode_tokens -= 1
            elif not self.stopping.accept(row, token, _seconds(row), events):
                ended.append(row)
                stopped = row
            elif row.thought.forced:
                stopped = row
        return events + self._remove_ended(ended)

    def _remove_ended(self, ended: list[Row]) -> list[Event]:
        """Remove active rows that have ended; their completions must not be lost if memory runs out
        here."""
        events: list[Event] = []
        problem = None
        try:
            for row in ended:
                self._remove(row)
        except MEMORY_ERRORS as error:
            problem = error
            self.rows.active = [row for row in self.rows.active if row not in ended]
        for row in ended:
            self.kv.release(row)
        if problem is not None:
            events += self._shrink(problem)
        return events

    def _remove(self, row: Row) -> None:
        """Remove an active row; the last one moves into its slot."""
        active = self.rows.active
        at, last = active.index(row), len(active) - 1
        if self.kv.own is not None and (row.request.keep or row.request.recurring):
            self.decoder.catch_up(self.kv.own, active)
        self.kv.keep(row, at)
        order = list(range(last))
        self.kv.leave(at, len(active), is_sound=row.error is None)
        if not self.rows.waiting:
            self.kv.free_spare()
        if at != last:
            active[at] = active[last]
            order[at] = last
        active.pop()
        self.decoder.keep(order)

    def _tell_progress(self, events: list[Event]) -> None:
        """Note how far the rows are."""
        self.progress.note_ended(events)
        in_slots = self.rows.in_slots
        self.count.now(len(in_slots), len(self.rows.waiting))
        self.stats.kept_tokens = self.kv.prompts.tokens
        self.stats.kv_tokens = self.kv.stored(in_slots)
        self.stats.under_way = self.progress.under_way(self.rows.active, self.stats)

    # ------------------------------------------------------------------------------------- out of
    # memory

    def _requeue_all(self) -> None:
        """Move all rows back to `waiting`; they continue later from the tokens that they have."""
        self.rows.waiting.extendleft(reversed(self.rows.in_slots))
        self.rows.active, self.rows.reading = [], []
        self.kv.drop()
        self.decoder.reset()
        for row in self.rows.waiting:
            row.wait_again()

    def _shrink(self, error: BaseException) -> list[Event]:
        """Move all rows back and continue with half as many; raise an error that is not about
        memory."""
        if not is_memory_error(error):
            raise error
        at_once = self.at_once
        alone = at_once <= 1 and self.admission.most_rows == 1
        self._requeue_all()
        self.kv.free(error)
        if alone:
            row = self.rows.waiting.popleft()
            self.kv.release(row)
            row.error = note("row_out_of_memory", tokens=len(row.prompt) + len(row.given or ()))
            return [self.stopping.completion(row, FinishReason.error, _seconds(row))]
        self.admission.halve(at_once)
        self.stats.row_shortages.append(RowShortage(self.admission.most_rows, at_once, ran_out=True))
        return []


def _seconds(row: Row) -> float:
    """Return the seconds since a row entered."""
    return time.perf_counter() - row.entered_s if row.entered_s else 0.0
