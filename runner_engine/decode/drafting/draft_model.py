"""Drafter that runs a draft model.

The draft model is smaller with the same tokenizer, or the same model with fewer bits or layers.

The draft model has its own weights and KV store. Each sequence of the target model has a
draft sequence with the same prompt and tokens. Its prompt is prefilled when the sequence
starts to decode, and later it reads the tokens that the target model has accepted.
Prefixes that sequences share are shared here too. Draft tokens are always the most
probable ones, so that a draft is deterministic. The target model may sample from its own
distribution when it verifies the draft.

Recurrent states of draft sequences are copied before the first draft token is read. After
a rejected draft the copy is restored, and the accepted tokens are read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import torch

from runner_engine.attention import PrefixUse
from runner_engine.decode.passes import Forward, HiddenStateReader, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import token_selection
from runner_engine.kv_cache import KvStore, Prefix, SequenceKv, copy_prefix_recurrent_state, create_kv_store
from runner_engine.recurrent import SavedStates, recurrent_state_nbytes
from runner_engine.sessions import EngineStats

MOST_TOKENS = 2048  # of prompts that one pass reads
FEW_TOKENS = 32  # that a row may read in the pass of its guess: more are the beginning of a prompt


class TokenDrafter:
    """Proposes draft tokens with a draft model.

    Draft sequences occupy slots 0 … n-1 of a separate KV store.
    """

    hidden_reader: HiddenStateReader | None = None

    def __init__(self, stats: EngineStats, load_draft_model: Callable[[], Forward] | None) -> None:
        assert load_draft_model is not None
        self.stats = stats
        self._draft: Callable[[], Forward] = load_draft_model
        self._prefixes: WeakKeyDictionary[Prefix, Prefix] = WeakKeyDictionary()
        self.reset()

    @cached_property
    def forward(self) -> Forward:
        """Forward passes of the draft model, which is loaded on first access."""
        return self._draft()

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values per token, in all layers of the draft model."""
        return self.forward.heads.bytes_per_token

    @property
    def bytes_per_row(self) -> int:
        """Bytes of recurrent states per sequence, including the copy that is saved before drafting."""
        return 2 * recurrent_state_nbytes(self.forward.heads.states)

    def reset(self) -> None:
        """Drop all draft sequences.

        The draft model prefills their prompts again when they continue.
        """
        self.rows: list[DraftSequence] = []  # by slot
        self._saved: SavedStates | None = None  # before the last guess, in the slots of then
        self._own: KvStore | None = None
        self._uses: list[PrefixUse] | None = None  # the prefixes of all rows

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        """Return the draft model's most probable next tokens for each sequence."""
        self._sync_draft_with_target_sequences(sequences)
        self._saved = None
        limits = dict(zip(sequences, max_tokens, strict=True))
        for one in self.rows:
            one.guess = []
        going = [one for one in self.rows if self._can_draft(one, limits[one.of])]
        if going:
            self._prefill_draft_sequences(going)
        while going:
            for one, token in zip(going, self._predict_next_tokens(going), strict=True):
                one.guess.append(token)
            going = [one for one in going if len(one.guess) < limits[one.of]]
            going = [one for one in going if 0 <= one.guess[-1] < self.forward.rows]
            if self._saved is None:
                self._saved = self._save_recurrent_states(going)
            for one in going:
                one.row.tokens.append(one.guess[-1])
        guess_of = {one.of: one.guess for one in self.rows}
        return [guess_of[row] for row in sequences]

    def _can_draft(self, draft_sequence: DraftSequence, max_draft_tokens: int) -> bool:
        fused = self.forward.fused
        known = len(draft_sequence.row.prompt) + len(draft_sequence.row.tokens)
        has_room = fused is None or known + max_draft_tokens <= fused.positions
        is_read = draft_sequence.fits_vocabulary(self.forward.rows)
        return max_draft_tokens > 0 and has_room and is_read

    # ----------------------------------------------------------------- the same rows as the model's

    def _sync_draft_with_target_sequences(self, sequences: Sequence[TokenSequence]) -> None:
        own = self._own = self._own or create_kv_store(self.forward.heads, self.forward.kernels)
        wanted, before = set(sequences) - self._restore_recurrent_states(own), len(self.rows)
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].of not in wanted:
                own.remove_sequence(slot, len(self.rows))
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                self._uses = None
        known = {one.of for one in self.rows}
        entering = [self._create_draft_sequence(row) for row in sequences if row not in known]
        if not entering and len(self.rows) < before:
            own.free_unused(0)
        if entering:
            first = len(self.rows)
            self.rows += entering
            self._uses = None
            needs = [one.row.max_kv_tokens for one in self.rows]
            held = [len(one.row.pending_tokens) for one in self.rows]
            own.insert_slots_with_empty_states(first, len(entering), needs, held, len(self.rows))
            for slot, one in enumerate(entering, start=first):
                own.set_text_start(slot, not one.row.kv.path)
        for one in self.rows:
            one.sync_with_target_sequence()

    def _save_recurrent_states(self, draft_sequences: Sequence[DraftSequence]) -> SavedStates | None:
        """Save the recurrent states of sequences before drafting.

        Returns None if the draft model has no recurrent states.
        """
        if self._own is None or self._own.states is None or not draft_sequences:
            return None
        return self._own.states.save_states([self.rows.index(one) for one in draft_sequences])

    def _restore_recurrent_states(self, kv_store: KvStore) -> set[TokenSequence]:
        """Restore recurrent states after rejected draft tokens.

        Returns the sequences that must be prefilled again.
        """
        lost, saved = set[TokenSequence](), self._saved
        if kv_store.states is None:
            return lost
        for slot, one in enumerate(self.rows):
            one.sync_with_target_sequence()
            known = one.row.kv.num_shared_tokens + one.row.kv.places
            if kv_store.states.read[slot] <= known:
                continue  # no guess was read into it, or all of it was right
            if saved is not None and slot in saved.slots:
                kv_store.states.restore_states(saved, [slot])
                one.row.kv.places = kv_store.states.read[slot] - one.row.kv.num_shared_tokens
            if kv_store.states.read[slot] > known:
                lost.add(one.of)
        return lost

    def _create_draft_sequence(self, sequence: TokenSequence) -> DraftSequence:
        return DraftSequence(sequence, sequence.prompt, self._find_draft_prefix(sequence.kv.prefix))

    def _find_draft_prefix(self, target_prefix: Prefix | None) -> Prefix | None:
        """Return the draft model's copy of a shared prefix of the target model."""
        if target_prefix is None or self.forward.kernels is None:
            return None  # without kernels each row reads its whole prompt
        parent, known = self._find_draft_prefix(target_prefix.parent), self._prefixes.get(target_prefix)
        if known is None or known.tokens != target_prefix.tokens or known.parent is not parent:
            known = self._prefixes[target_prefix] = Prefix(list(target_prefix.tokens), parent)
        return known

    # --------------------------------------------------------------------------------------- passes

    def _prefill_draft_sequences(self, draft_sequences: Sequence[DraftSequence]) -> None:
        started, has_read = time.perf_counter(), False
        for one in draft_sequences:
            for prefix in one.row.kv.needed_prefixes:
                while prefix.kv is None:
                    self._prefill_prefix(prefix)
                    has_read = True
        self._copy_prefix_states(draft_sequences)
        while long := [one for one in draft_sequences if one.num_unprocessed_tokens > FEW_TOKENS]:
            pieces, left = [], MOST_TOKENS
            for one in long:
                if left:
                    pieces.append(
                        self._build_next_token_span(
                            one, min(one.num_unprocessed_tokens - 1, left), is_last=False
                        )
                    )
                    left -= len(pieces[-1].ids)
            self._run_drafter_on_token_spans(pieces)
            has_read = True
        if has_read:
            self.stats.prefill_s += time.perf_counter() - started

    def _copy_prefix_states(self, draft_sequences: Sequence[DraftSequence]) -> None:
        if self._own is None or self._own.states is None:
            return
        for one in draft_sequences:
            slot = self.rows.index(one)
            if not self._own.states.read[slot]:
                copy_prefix_recurrent_state(self._own, slot, one.row.kv.prefix)

    def _predict_next_tokens(self, draft_sequences: Sequence[DraftSequence]) -> list[int]:
        """Run the draft model on the tokens that it has not processed yet in each sequence.

        Returns the most probable next token of each sequence.
        """
        assert self._own is not None
        if len(draft_sequences) == len(self.rows) and all(
            one.num_unprocessed_tokens == 1 for one in draft_sequences
        ):
            rows = [one.row for one in draft_sequences]
            self._own.ensure_capacity(
                max(row.kv.places for row in rows) + 1, max(row.max_kv_tokens for row in rows)
            )
            if self._uses is None:
                self._uses = self.forward.list_shared_prefixes(rows)
            self._prepare_pass([(one, one.row.kv.places, 1) for one in draft_sequences])
            logits = self.forward.step(self._own, rows, self._uses)
            for slot, row in enumerate(rows):
                row.kv.places += 1
                self._own.set_num_filled(slot, row.kv.places)
        else:
            logits = self._run_drafter_on_token_spans(
                [
                    self._build_next_token_span(one, one.num_unprocessed_tokens, is_last=True)
                    for one in draft_sequences
                ]
            )
        tokens: list[int] = token_selection.argmax(logits).tolist()
        return tokens

    def _build_next_token_span(
        self, draft_sequence: DraftSequence, num_tokens: int, is_last: bool
    ) -> TokenSpan:
        row, start, last = (
            draft_sequence.row,
            draft_sequence.row.kv.places,
            draft_sequence.num_unprocessed_tokens,
        )
        is_answer = last <= len(row.tokens)
        unread = row.tokens[len(row.tokens) - last :] if is_answer else row.pending_tokens[start:]
        ids = unread[:num_tokens]
        return TokenSpan(row, self.rows.index(draft_sequence), ids, start, is_last=is_last)

    def _prepare_pass(self, spans: Sequence[tuple[DraftSequence, int, int]]) -> None:
        """Prepare a forward pass over token spans. Subclasses override this method.

        Each span is (sequence, first position, count).
        """

    def _prefill_prefix(self, prefix: Prefix) -> None:
        self.forward.prefill_prefix(prefix, MOST_TOKENS)

    def _run_drafter_on_token_spans(self, spans: Sequence[TokenSpan]) -> torch.Tensor:
        assert self._own is not None
        longest = max(piece.before + len(piece.ids) for piece in spans)
        self._own.ensure_capacity(longest, max(piece.row.max_kv_tokens for piece in spans))
        self._prepare_pass([(self.rows[one.slot], one.before, len(one.ids)) for one in spans])
        logits = self.forward.run_token_spans(self._own, spans)
        for piece in spans:
            piece.row.kv.places += len(piece.ids)
            self._own.set_num_filled(piece.slot, piece.row.kv.places)
        return logits


class DraftSequence:
    """The draft model's copy of a target model's sequence."""

    def __init__(self, target: TokenSequence, prompt: list[int], prefix: Prefix | None) -> None:
        self.of = target
        self.row = TokenSequence(target.request, prompt, "", target.limit, kv=SequenceKv(prefix))
        self.guess: list[int] = []
        self._same = 0  # tokens that both have for certain
        self._largest = max(target.prompt, default=0)  # of the tokens that it must read

    def sync_with_target_sequence(self) -> None:
        """Copy the target sequence's tokens. Later tokens overwrite the positions of rejected draft tokens."""
        row, tokens = self.row, self.of.tokens
        same = min(self._same, len(tokens))
        while same < min(len(row.tokens), len(tokens)) and row.tokens[same] == tokens[same]:
            same += 1
        own_prompt = len(row.prompt) - row.kv.num_shared_tokens
        # the last token is read in any case: the guess is what follows it
        row.kv.places = min(row.kv.places, own_prompt + min(same, len(tokens) - 1))
        row.tokens[same:] = tokens[same:]
        self._largest = max(self._largest, *tokens[same:], 0)
        self._same = len(tokens)

    @property
    def num_unprocessed_tokens(self) -> int:
        row = self.row
        return len(row.prompt) - row.kv.num_shared_tokens + len(row.tokens) - row.kv.places

    def fits_vocabulary(self, vocab_size: int) -> bool:
        return self._largest < vocab_size
