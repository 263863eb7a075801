"""Manages the scheduler's KV cache memory: the KV store, and a token budget computed from free memory.

Sequences share prefixes (a prefix tree), get copies of earlier prompts (prompt cache,
conversations), and own slots in one store, which exists while there are sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from runner_engine.checkpoints.prompt_cache_size import COMBINED_SHARE, SEQUENCE_SHARE
from runner_engine.decode.passes import Forward
from runner_engine.decode.sequences import SequenceQueues, TokenSequence
from runner_engine.kv_cache import (
    ConversationCache,
    KvStore,
    PagedSlots,
    PrefixTree,
    PromptCache,
    compute_kv_store_size_tokens,
    copy_prefix_recurrent_state,
    create_kv_store,
    create_resident_token_counter,
    kv_capacity_tokens,
)
from runner_engine.memory import MemoryGuard, release_memory_after_failure
from runner_engine.sessions import EngineStats

GROWN = 8  # a budget has grown if it is larger by one in so many tokens


class KvBudget:
    """Manages a scheduler's KV store within a token budget that is computed from free memory."""

    def __init__(
        self,
        forward: Forward,
        stats: EngineStats,
        conversations: ConversationCache,
        prompts: PromptCache,
        draft_bytes_per_token: int = 0,
        draft_bytes_per_sequence: int = 0,
        copies_recurrent_states: bool = False,
    ) -> None:
        """Configure the budget of a model's KV store.

        draft_bytes_per_token, draft_bytes_per_sequence: memory that a draft model needs in
        addition. copies_recurrent_states: whether recurrent states are copied before draft tokens are
        verified.
        """
        self.forward, self.heads, self.stats = forward, forward.heads, stats
        self.conversations, self.prompts = conversations, prompts
        self.prefixes = PrefixTree(self.heads, forward.max_prefixes, conversations)
        self.memory = MemoryGuard(forward.model, self.heads.device)
        own_bytes = self.heads.bytes_per_token
        # of each row, in tokens: copies of its states, and what a draft keeps of it
        self.copied = self.heads.state_tokens * copies_recurrent_states + ceil(
            draft_bytes_per_sequence / own_bytes
        )
        self.kept_tokens = create_resident_token_counter(self.heads)
        self.share = own_bytes / (own_bytes + draft_bytes_per_token)  # of the memory for keys and values
        self.own: KvStore | None = None  # the rows' own keys and values, by slot
        self.tokens = 0  # the budget: whose keys and values may be stored
        self._with_prompts = 0.0  # tokens that active sequences and the prompt cache may take together
        self._active_tokens = 0  # of these, what active sequences may need until they end
        self._measured_s = 0.0  # when the free memory was measured from which the budget was computed

    def reset(self) -> None:
        """Drop the KV store, except on a GPU, where recorded CUDA graphs still use the store's memory."""
        if self.heads.device.type != "cuda":
            self.own = None

    def drop_store(self) -> None:
        self.own = None

    # ------------------------------------------------------------------------------------- how much

    def update_budget(self) -> bool:
        """Set the token budget to a fraction of the free memory. The prompt cache counts as free.

        Returns whether the budget grew clearly.
        """
        before = self.tokens
        held = 0 if self.own is None else self.own.resident_tokens_with_states
        stored = held + self.prefixes.tokens + self.prompts.resident_tokens
        room = kv_capacity_tokens(self.heads, stored)
        self.tokens = self.prefixes.budget = int(room * self.share)
        self._with_prompts = room / SEQUENCE_SHARE * COMBINED_SHARE
        return self.tokens > before + before // GROWN

    def has_new_memory_measurement(self) -> bool:
        self.memory.update_free_memory_if_stale()
        is_outdated = self.memory.looked_s != self._measured_s
        self._measured_s = self.memory.looked_s
        return is_outdated

    def check_memory(self, num_sequences: int) -> None:
        """Free KV memory of finished sequences, then earlier prompts, if the next tokens may not fit.

        Raises MemoryError if memory still does not suffice.
        """
        while True:
            try:
                return self.memory.check(num_sequences)
            except MemoryError:
                half = self.prompts.resident_tokens // 2
                if not (self.free_unused_arenas() or self.prompts.shrink(half)):
                    raise
                self.memory.invalidate()

    def free_unused_arenas(self) -> bool:
        """Free the KV memory of finished sequences. Returns whether any memory was freed."""
        return self.own is not None and self.own.free_unused(0)

    def compute_kv_cost_tokens(self, max_lengths: Sequence[int]) -> int:
        """Return the KV cache memory, in tokens, that sequences with these maximum lengths need.

        Recurrent states are included.
        """
        return (
            compute_kv_store_size_tokens(self.heads, self.forward.kernels, max_lengths)
            + len(max_lengths) * self.copied
        )

    def has_room_for(self, sequence: TokenSequence, active_sequences: Sequence[TokenSequence]) -> bool:
        missing = sum(
            prefix.stored_size - prefix.resident_tokens - prefix.freed
            for prefix in sequence.kv.needed_prefixes
        )
        needs = [self._compute_max_resident_tokens(one) for one in (*active_sequences, sequence)]
        return self.compute_kv_cost_tokens(needs) + self.prefixes.tokens + missing <= self.tokens

    def _compute_max_resident_tokens(self, sequence: TokenSequence) -> int:
        """Return the number of tokens of a sequence that occupy the KV cache when the sequence ends.

        Sliding windows free some tokens earlier.
        """
        frees_places = self.forward.kernels is not None and not _must_keep_all_kv(sequence)
        return self.kept_tokens(sequence.max_kv_tokens) if frees_places else sequence.max_kv_tokens

    def compute_stored_nbytes(self, sequences: Sequence[TokenSequence]) -> int:
        """Return the bytes that all prefixes and these sequences occupy in the KV cache after a forward pass.

        Memory that the pass frees is still counted.
        """
        if not self.heads.layers:  # states alone
            return self.heads.bytes_per_token * self.heads.state_tokens * len(sequences)
        freed = 0 if self.own is None else self.own.pop_freed_tokens()
        beginnings = self.prefixes.num_root_prefixes + sum(not row.kv.path for row in sequences)
        of_first = self.heads.first_tokens_nbytes * beginnings
        return self.heads.bytes_per_token * (self.compute_stored_tokens(sequences) - freed) + of_first

    def compute_stored_tokens(self, sequences: Sequence[TokenSequence]) -> int:
        """Return the occupied KV cache memory, in tokens.

        Includes shared prefixes and recurrent states.
        """
        return self.prefixes.tokens + sum(row.kv.places + self.heads.state_tokens for row in sequences)

    # ----------------------------------------------------------------------------- rows come and go

    def assign_reusable_kv(self, sequence: TokenSequence) -> None:
        sequence.kv.blocks, sequence.kv.copied = [], 0
        if sequence.request.recurring and sequence.given is None and not self.heads.states:
            self.prompts.assign_cached_blocks(sequence.kv, sequence.prompt, sequence.pending_tokens)
        self.prefixes.set_copied_token_count(sequence.kv)

    def allocate_kv_slots(
        self,
        queues: SequenceQueues,
        short_sequences: Sequence[TokenSequence],
        long_sequences: Sequence[TokenSequence],
        max_sequences: int,
    ) -> KvStore:
        """Allocate a KV slot for each admitted sequence.

        Short prompts come directly after the active sequences, and long prompts after those in
        prefill.
        """
        if self.own is None:
            self.own = create_kv_store(self.heads, self.forward.kernels)
        if isinstance(self.own, PagedSlots):
            self.own.reserve_prefix_pages(
                {prefix for row in (*short_sequences, *long_sequences) for prefix in row.kv.path}
            )
        before_long = [*queues.active, *short_sequences, *queues.reading]
        all_rows = [*before_long, *long_sequences]
        to_come = len(queues.waiting)
        cost = self.compute_kv_cost_tokens([self._compute_max_resident_tokens(row) for row in all_rows])
        self._active_tokens = cost
        if self.prompts.shrink(self.available_prompt_cache_tokens):
            for row in (*short_sequences, *long_sequences):
                self.assign_reusable_kv(row)  # the blocks that remain have moved
        self._insert_kv_slots(
            self.own,
            before_long,
            len(queues.active),
            len(short_sequences),
            min(max_sequences, len(before_long) + to_come),
        )
        self._insert_kv_slots(
            self.own,
            all_rows,
            len(before_long),
            len(long_sequences),
            min(max_sequences, len(all_rows) + to_come),
        )
        spare = min(
            self.tokens - self.prefixes.tokens - cost,
            self.available_prompt_cache_tokens - self.prompts.resident_tokens,
        )
        self.own.free_unused(min(cost, max(spare, 0)))
        return self.own

    @property
    def available_prompt_cache_tokens(self) -> int:
        """Number of tokens that active sequences leave to the prompt cache."""
        active = self._active_tokens / self.share + self.prefixes.tokens + self.conversations.tokens
        return max(int(self._with_prompts - active), 0)

    def _insert_kv_slots(
        self,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        first_slot: int,
        num_slots: int,
        expected_sequences: int,
    ) -> None:
        """Insert `num_slots` slots into the KV store.

        expected_sequences: the number of sequences that the store may hold later.
        """
        if not num_slots:
            return
        needs = [row.max_kv_tokens for row in sequences]
        kept = max(*(self._compute_max_resident_tokens(row) for row in sequences), 1)
        expected_sequences = min(expected_sequences, self.tokens // self.compute_kv_cost_tokens([kept]))
        kv_store.insert_slots_with_empty_states(
            first_slot,
            num_slots,
            needs,
            [row.kv.rest + len(row.pending_tokens) for row in sequences],
            max(expected_sequences, len(sequences)),
        )

    def copy_cached_kv_into_slots(self, admitted: Sequence[tuple[int, TokenSequence]]) -> None:
        """Copy cached keys, values and recurrent states into the slots of admitted sequences."""
        assert self.own is not None
        self.prefixes.copy_prefixes([(slot, row.kv) for slot, row in admitted], self.own)
        for slot, row in admitted:
            copy_prefix_recurrent_state(self.own, slot, row.kv.prefix)
            self.own.set_text_start(slot, not row.kv.path)
            if _must_keep_all_kv(row):
                self.own.disable_freeing(slot)
            self.prompts.copy_blocks(row.kv, self.own, slot)
            row.kv.places = row.kv.copied
            self.stats.shared_tokens += row.kv.num_shared_tokens + row.kv.copied

    def grow_kv_store_for_next_token(self, sequences: Sequence[TokenSequence]) -> KvStore:
        """Return the KV store, enlarged if one more token per sequence would not fit."""
        assert self.own is not None
        self.own.ensure_capacity(
            max(row.kv.places for row in sequences) + 1, max(row.max_kv_tokens for row in sequences)
        )
        return self.own

    def cache_finished_sequence(self, sequence: TokenSequence, slot: int) -> None:
        assert self.own is not None
        if sequence.error is not None:
            return
        # these cannot be cut back to a block of the prompt cache
        has_states = bool(self.heads.states)
        states = self.own.states
        if states is not None and states.read[slot] != sequence.kv.num_shared_tokens + sequence.kv.places:
            return  # it stands for guessed tokens behind the row's end
        if sequence.request.keep or (sequence.request.recurring and has_states):
            self.conversations.cache_sequence_kv(
                sequence.prompt + sequence.tokens, sequence.kv, self.own, slot, self.tokens
            )
        if sequence.request.recurring and not has_states:
            self.prompts.cache_sequence_blocks(
                sequence.kv,
                sequence.prompt,
                sequence.tokens,
                self.own,
                slot,
                self.available_prompt_cache_tokens,
            )

    def free_slot(self, slot: int, num_sequences: int, has_no_nan: bool) -> None:
        """Free a KV slot. The last sequence moves to the freed slot.

        has_no_nan: the slot contains no NaN.
        """
        assert self.own is not None
        self.own.remove_sequence(slot, num_sequences, has_no_nan)

    def release_prefixes(self, sequence: TokenSequence) -> None:
        is_kept = sequence.error is None and (sequence.request.keep or sequence.request.recurring)
        self.prefixes.release(sequence.kv, is_kept)

    def free_all(self, error: BaseException) -> None:
        """Free all keys and values after a failed forward pass. They are computed again later."""
        self.drop_store()
        self.prefixes.free_all()
        self.conversations.clear()
        self.prompts.clear()
        self.forward.free_cuda_graphs()
        release_memory_after_failure(error, self.heads.device)
        self.memory.invalidate()


def _must_keep_all_kv(sequence: TokenSequence) -> bool:
    """Whether all keys of a sequence must stay in the KV cache, because later prompts may reuse them.

    Otherwise sliding windows free old keys.
    """
    return sequence.request.keep or sequence.request.recurring
