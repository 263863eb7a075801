"""Continuous batching: sequences enter and leave a running batch.

Active sequences have the slots 0 … n-1 of the KV store. When a sequence ends, the last
active sequence moves into its slot. Each forward pass is a flat list of tokens: a shared
prefix, the prompts of admitted sequences, or one token of every sequence. A continuation
to score is prefilled in the same pass as its prompt.

When memory runs out, half as many sequences continue. The others continue later from
their tokens so far.

`Admission` decides which sequences enter and when. `KvBudget` allocates their keys and
values. `Decoder` computes their tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from runner_base import MEMORY_ERRORS, FinishReason, is_out_of_memory_error, release_free_memory
from runner_base.notes import note
from runner_engine.decode.admission import Admission
from runner_engine.decode.decoder import Decoder, NewTokens
from runner_engine.decode.kv_budget import KvBudget
from runner_engine.decode.sequence_progress import SequenceProgress
from runner_engine.decode.sequences import SequenceQueues, TokenSequence
from runner_engine.decode.tokens import Speculator, Stopping, build_scored_completion
from runner_engine.kv_cache import ConversationCache, KvCacheSpec, PromptCache
from runner_engine.memory import PeakMemory
from runner_engine.sessions import EngineStats, Event, RequestId, SequenceCount, SequenceShortage


class Scheduler:
    """Decodes sequences with continuous batching. All sequences share one KV store.

    The KV store exists only while there are sequences.
    """

    def __init__(
        self,
        model: Any,
        kv_spec: KvCacheSpec,
        vocab_size: int,
        stats: EngineStats,
        peak_memory: PeakMemory,
        stopping: Stopping,
        max_sequences: int | None,
        conversations: ConversationCache,
        prompts: PromptCache,
        speculator: Speculator,
    ) -> None:
        self.stats, self.peaks, self.stopping, self.count = stats, peak_memory, stopping, SequenceCount(stats)
        self.rows = SequenceQueues()
        self.decoder = Decoder(model, kv_spec, vocab_size, stats, stopping, speculator)
        self.kv = KvBudget(
            self.decoder.forward,
            stats,
            conversations,
            prompts,
            speculator.bytes_per_token,
            speculator.bytes_per_row,
            speculator.copies_states,
        )
        self.admission = Admission(self.rows, self.kv, self.decoder, stats, max_sequences)
        self._reset_decoding_state()

    def _reset_decoding_state(self) -> None:
        self.kv.reset()
        self.admission.reset()
        self.decoder.reset()
        self.at_once = 0  # rows in the current pass; 0 if it reads a prefix and no row is active
        self.others_waited = (
            False  # whether active rows were not in the last pass, so that the next one is theirs
        )
        self.progress = SequenceProgress()
        self.count.update(0, 0)
        self.stats.kv_tokens, self.stats.under_way = 0, 0.0
        self.stats.decoding_graphs = self.decoder.forward.recording_summary or self.stats.decoding_graphs

    @property
    def is_busy(self) -> bool:
        return bool(self.rows.active or self.rows.reading or self.rows.waiting)

    def add_sequences(
        self, sequences: Sequence[TokenSequence], upcoming_prompts: Sequence[list[int]] = ()
    ) -> None:
        """Append sequences to the waiting queue.

        `upcoming_prompts` come later and may share prefixes with these sequences.
        """
        if not self.is_busy:
            self.admission.update_budget()
        self.admission.enqueue_waiting_sequences(sequences, upcoming_prompts)

    def cancel_requests(self, request_ids: Collection[RequestId]) -> list[Event]:
        """End the sequences of these requests. Each completion contains the tokens generated so far."""
        events: list[Event] = []
        rows = self.rows
        not_decoding = [row for row in (*rows.waiting, *rows.reading) if row.request.id in request_ids]
        rows.waiting = deque(row for row in rows.waiting if row.request.id not in request_ids)
        for slot, row in reversed(list(enumerate(rows.reading, start=len(rows.active)))):
            if row.request.id in request_ids and self.kv.own is not None:
                rows.reading.remove(row)
                self.kv.free_slot(slot, slot + 1, has_no_nan=False)
        ended = [row for row in rows.active if row.request.id in request_ids]
        for row in (*ended, *not_decoding):
            self.stopping.cancel_sequence(row, _elapsed_s(row), events)
        for row in not_decoding:
            self.kv.release_prefixes(row)
        events += self._remove_finished_sequences(ended)
        if not self.is_busy:
            self._reset_decoding_state()
        return events

    def step(self) -> list[Event]:
        """Prefill waiting sequences, or decode one token for each active sequence. Returns the events."""
        started, prefill_s = time.perf_counter(), self.stats.prefill_s
        self.at_once = len(self.rows.in_slots)
        try:
            self.kv.check_memory(len(self.rows.active))
            events = self._admit_and_prefill_sequences()
            if events is None:
                events = self._decode_active_sequences() if self.rows.active else []
        except MEMORY_ERRORS as error:
            events = self._recover_from_oom(error)
        passed = time.perf_counter() - started
        self.stats.decode_s += passed - (self.stats.prefill_s - prefill_s)
        self._update_progress(events)
        if not self.is_busy:
            self._reset_decoding_state()
        return events

    def close(self) -> None:
        for row in (*self.rows.active, *self.rows.reading, *self.rows.waiting):
            self.kv.release_prefixes(row)
        self.rows.active, self.rows.reading = [], []
        self.rows.waiting.clear()
        self.kv.drop_store()
        self.decoder.forward.free_cuda_graphs()
        self._reset_decoding_state()

    # ------------------------------------------------------------------------------------- entering

    def _admit_and_prefill_sequences(self) -> list[Event] | None:
        """Admit waiting sequences and prefill their prompts. Returns None if nothing was prefilled."""
        free = self.admission.num_admissible()
        if not (free or self.rows.reading) or (self.rows.active and self.others_waited):
            self.others_waited = False
            return None
        started = time.perf_counter()
        if self.kv.has_new_memory_measurement():
            self.admission.update_budget()
        entering: list[TokenSequence] = []
        try:
            most = self.admission.max_prefill_tokens()
            long = self.admission.admit_waiting_sequences(entering, free, most)
            self.stats.prefill_s += time.perf_counter() - started  # prefixes were read
            if not (entering or self.rows.reading):
                return None
            self.at_once += len(entering)
            new, events = self._prefill_prompts([row for row in entering if row not in long], long, most)
        except BaseException:
            self.rows.waiting.extendleft(reversed(entering))
            self._requeue_all_sequences()
            raise
        return self._append_tokens_and_remove_finished(new, events)

    def _prefill_prompts(
        self, short_sequences: list[TokenSequence], long_sequences: list[TokenSequence], max_tokens: int
    ) -> tuple[NewTokens, list[Event]]:
        """Prefill the prompts in one forward pass: short prompts completely, and long prompts in chunks.

        Active sequences decode in the same pass, or wait. Returns the new tokens and the events
        of scored sequences. Scored sequences have the last slots and leave after the pass.
        """
        started, rows = time.perf_counter(), self.rows
        short_sequences.sort(key=lambda row: row.given is not None)
        own = self.kv.allocate_kv_slots(rows, short_sequences, long_sequences, self.admission.most_rows)
        reading, first = [*rows.reading, *long_sequences], len(rows.active)
        entering = [
            (slot, row)
            for slot, row in enumerate([*short_sequences, *reading], start=first)
            if row not in rows.reading
        ]
        self.kv.copy_cached_kv_into_slots(entering)
        for _, row in entering:
            row.entered_s = row.entered_s or started
        pieces = self.admission.plan_prefill_chunks(short_sequences, reading, max_tokens)
        joins_decoding = (
            self.decoder.has_kernels if reading else self.admission.can_join_decode_pass(short_sequences[0])
        )
        decoding = rows.active[:] if joins_decoding or self.decoder.has_begun_step else []
        new = self.decoder.prefill(own, pieces, decoding, joins_decoding)
        started_rows = [row for row, _ in new[len(decoding) :]]
        ended = [piece for piece in pieces if piece.is_last and piece.row.given is not None]
        rows.active += started_rows
        rows.reading = [row for row in reading if row.kv.places < len(row.pending_tokens)]
        self._record_peak_memory([piece.row for piece in ended])
        for row in started_rows:
            row.first_token_s = row.first_token_s or time.perf_counter() - row.entered_s
        events: list[Event] = [build_scored_completion(piece.row, _elapsed_s(piece.row)) for piece in ended]
        for piece in reversed(ended):
            self.kv.free_slot(piece.slot, piece.slot + 1, has_no_nan=piece.row.error is None)
            self.kv.release_prefixes(piece.row)
        tokens = sum(len(piece.ids) for piece in pieces)
        self.stats.prefill_tokens += tokens
        self.others_waited = bool(first and not decoding and (ended or reading))
        if not (rows.waiting or rows.reading or decoding):
            release_free_memory()  # the process would keep the memory of reading prompts, while the rows will grow
        passed = time.perf_counter() - started
        if reading and decoding:
            self.admission.pace.record_pass(tokens, passed)
        self.stats.prefill_s += passed * tokens / (tokens + len(decoding))
        return new, events

    # ------------------------------------------------------------------------------------- decoding

    def _decode_active_sequences(self) -> list[Event]:
        rows = self.rows
        self.at_once = len(rows.in_slots)
        own = self.kv.grow_kv_store_for_next_token(rows.active)
        new = self.decoder.step(own, rows.active, rows.reading)
        self._record_peak_memory()
        return self._append_tokens_and_remove_finished(new, [])

    def _record_peak_memory(self, finished: Sequence[TokenSequence] = ()) -> None:
        """Record the peak KV cache memory and the size of the largest forward pass.

        Called before finished sequences leave the KV cache.
        """
        forward = self.decoder.forward
        self.peaks.record_kv_peak(self.kv.compute_stored_nbytes([*self.rows.in_slots, *finished]))
        self.peaks.record_pass_peak(forward.most_tokens, forward.most_logits)

    def _append_tokens_and_remove_finished(self, new_tokens: NewTokens, events: list[Event]) -> list[Event]:
        ended: list[TokenSequence] = []
        stopped: TokenSequence | None = None
        for row, token in new_tokens:
            if row is stopped:  # guessed beyond its end, or beyond the end of its thinking
                row.kv.places -= 1
                self.stats.decode_tokens -= 1
            elif not self.stopping.accept_token(row, token, _elapsed_s(row), events):
                ended.append(row)
                stopped = row
            elif row.thought.forced:
                stopped = row
        return events + self._remove_finished_sequences(ended)

    def _remove_finished_sequences(self, finished: list[TokenSequence]) -> list[Event]:
        """Remove finished sequences and return their completions, even if memory runs out."""
        events: list[Event] = []
        problem = None
        try:
            for row in finished:
                self._remove_active_sequence(row)
        except MEMORY_ERRORS as error:
            problem = error
            self.rows.active = [row for row in self.rows.active if row not in finished]
        for row in finished:
            self.kv.release_prefixes(row)
        if problem is not None:
            events += self._recover_from_oom(problem)
        return events

    def _remove_active_sequence(self, sequence: TokenSequence) -> None:
        """Remove an active sequence. The last active sequence moves to the free slot."""
        active = self.rows.active
        at, last = active.index(sequence), len(active) - 1
        if self.kv.own is not None and (sequence.request.keep or sequence.request.recurring):
            self.decoder.catch_up_recurrent_states(self.kv.own, active)
        self.kv.cache_finished_sequence(sequence, at)
        order = list(range(last))
        self.kv.free_slot(at, len(active), has_no_nan=sequence.error is None)
        if not self.rows.waiting:
            self.kv.free_unused_arenas()
        if at != last:
            active[at] = active[last]
            order[at] = last
        active.pop()
        self.decoder.reorder_sequences(order)

    def _update_progress(self, events: list[Event]) -> None:
        self.progress.count_finished(events)
        in_slots = self.rows.in_slots
        self.count.update(len(in_slots), len(self.rows.waiting))
        prompts, conversations = self.kv.prompts, self.kv.conversations
        self.stats.kept_tokens = prompts.tokens + conversations.tokens
        self.stats.kept_bytes = prompts.nbytes + conversations.nbytes
        self.stats.kv_tokens = self.kv.compute_stored_tokens(in_slots)
        self.stats.under_way = self.progress.estimate_completed_requests(self.rows.active, self.stats)

    # ------------------------------------------------------------------------------------- out of
    # memory

    def _requeue_all_sequences(self) -> None:
        """Move all sequences back to the waiting queue. Their generated tokens are kept."""
        self.rows.waiting.extendleft(reversed(self.rows.in_slots))
        self.rows.active, self.rows.reading = [], []
        self.kv.drop_store()
        self.decoder.reset()
        for row in self.rows.waiting:
            row.reset_for_requeue()

    def _recover_from_oom(self, error: BaseException) -> list[Event]:
        """After an out-of-memory error, requeue all sequences and halve the maximum batch size.

        Re-raises other errors.
        """
        if not is_out_of_memory_error(error):
            raise error
        at_once = self.at_once
        alone = at_once <= 1 and self.admission.most_rows == 1
        self._requeue_all_sequences()
        self.kv.free_all(error)
        if alone:
            row = self.rows.waiting.popleft()
            self.kv.release_prefixes(row)
            row.error = note("row_out_of_memory", tokens=len(row.prompt) + len(row.given or ()))
            return [self.stopping.build_completion(row, FinishReason.error, _elapsed_s(row))]
        self.admission.halve_max_sequences(at_once)
        self.stats.row_shortages.append(SequenceShortage(self.admission.most_rows, at_once, ran_out=True))
        return []


def _elapsed_s(sequence: TokenSequence) -> float:
    """Return the seconds since a sequence was admitted. 0 for a waiting sequence."""
    return time.perf_counter() - sequence.entered_s if sequence.entered_s else 0.0
