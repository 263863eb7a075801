"""Runs one decoding step: selects the forward pass, runs it, and samples tokens from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.decode.passes import AsyncStep, Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import (
    Sampler,
    Speculator,
    Stopping,
    compute_max_scored_positions,
    create_sampler,
    get_unprocessed_tokens,
    prefill_and_score,
)
from runner_engine.kv_cache import KvCacheSpec, KvStore, PrefixTree
from runner_engine.sessions import EngineStats

NewTokens = list[tuple[TokenSequence, int]]  # in the order in which they came


class Decoder:
    """Computes the next tokens of sequences.

    Active sequences occupy slots 0 … n-1 of the KV store.
    """

    def __init__(
        self,
        model: Any,
        kv_spec: KvCacheSpec,
        vocab_size: int,
        stats: EngineStats,
        stopping: Stopping,
        speculator: Speculator,
    ) -> None:
        self.stats, self.stopping, self.speculation = stats, stopping, speculator
        self.vocab_size, self.device = vocab_size, kv_spec.device
        self.forward = Forward(model, kv_spec)
        if speculator.hidden_reader is not None:
            self.forward.enable_hidden_states(speculator.hidden_reader)
        self.ahead = AsyncStep(self.forward)
        # positions of continuations, in one pass
        self.most_scored = compute_max_scored_positions(kv_spec.device, vocab_size)
        self.reset()

    def reset(self) -> None:
        self.ahead.discard()
        self.speculation.reset()
        self.sampler = Sampler(self.vocab_size, self.device)
        self.ahead.invalidate_sequences()

    def reorder_sequences(self, indices: Sequence[int]) -> None:
        """Keep only the active sequences at these indices, in the given order."""
        self.sampler.keep_sequences_at_indices(indices)
        self.ahead.invalidate_sequences()

    @property
    def has_kernels(self) -> bool:
        """Whether attention uses the project's own C kernels instead of torch.

        Only then can one forward pass prefill and decode together.
        """
        return self.forward.kernels is not None

    @property
    def short_span(self) -> int:
        return self.forward.short_span

    @property
    def has_begun_step(self) -> bool:
        return self.ahead.has_begun

    # -------------------------------------------------------------------------------------- prompts

    def prefill_prefixes(self, sequence: TokenSequence, prefixes: PrefixTree, max_tokens: int) -> bool:
        """Compute the keys and values of the prefixes that a sequence shares with others.

        Returns whether all prefixes are complete.

        Each call reads a prefix of more than `max_tokens` tokens in one pass only, because other
        sequences are decoding.
        """
        for prefix in sequence.kv.needed_prefixes:
            if prefix.kv is None:
                freed = prefix.freed
                count = self.forward.prefill_prefix(prefix, max_tokens)
                prefixes.count_prefilled(prefix, count - (prefix.freed - freed))
                self.stats.prefill_tokens += count
            if prefix.kv is None:
                return False
        return True

    def prefill(
        self,
        kv_store: KvStore,
        chunks: Sequence[TokenSpan],
        decoding_sequences: list[TokenSequence],
        shares_decode_pass: bool,
    ) -> NewTokens:
        """Prefill prompt chunks and compute log-probabilities of given continuations.

        Runs one forward pass.

        Returns the next tokens of sequences that are not scored.

        decoding_sequences: active sequences that get their next token too: in this pass, or, without
        `shares_decode_pass`, from the step that has begun. Sequences whose prompts end here
        become active.
        """
        self.catch_up_recurrent_states(kv_store, decoding_sequences)
        steps = [
            TokenSpan(row, slot, row.tokens[-1:], row.kv.places)
            for slot, row in enumerate(decoding_sequences)
        ]
        logits = prefill_and_score(
            self.forward, kv_store, [*steps, *chunks] if shares_decode_pass else chunks
        )
        of_decoding = self.ahead.take_early_decode_step_logits(decoding_sequences)
        if of_decoding is None:
            of_decoding, logits = logits[: len(decoding_sequences)], logits[len(decoding_sequences) :]
        for piece in chunks:
            piece.row.kv.places += len(piece.ids)
            kv_store.set_num_filled(piece.slot, piece.row.kv.places)
        self.ahead.invalidate_sequences()
        started = [piece.row for piece in chunks if piece.is_last and piece.row.given is None]
        if not (started or decoding_sequences):
            return []
        newcomers = create_sampler(started, self.vocab_size, self.device)
        self.stopping.constrain_logits(of_decoding, decoding_sequences)
        self.stopping.constrain_logits(logits, started)
        picked = self.sampler.sample(of_decoding).tolist() if decoding_sequences else []
        picked += newcomers.sample(logits).tolist() if started else []
        self.sampler.append_sampler(newcomers)
        self._advance_positions(kv_store, decoding_sequences)
        return list(zip([*decoding_sequences, *started], picked, strict=True))

    # ---------------------------------------------------------------------------------------- steps

    def step(
        self, kv_store: KvStore, sequences: list[TokenSequence], prefilling_sequences: Sequence[TokenSequence]
    ) -> NewTokens:
        """Decode the next token of each active sequence, or several tokens with speculative decoding.

        prefilling_sequences: sequences in the following slots whose prompts are incomplete.
        """
        drafts = (
            []
            if self.ahead.has_begun
            else self.speculation.propose_drafts(sequences, self.forward, self.sampler)
        )
        if drafts:
            new = self.speculation.verify_drafts(
                self.forward, kv_store, sequences, drafts, self.sampler, self.stopping
            )
            self.speculation.record_step(len(new))
            return new
        self.catch_up_recurrent_states(kv_store, sequences)
        logits = self.ahead.get_step_logits(kv_store, sequences, prefilling_sequences)
        self.stopping.constrain_logits(logits, sequences)
        picked = self.sampler.sample(logits)
        del logits  # the next step needs memory for its own
        self._advance_positions(kv_store, sequences)
        tokens = self.ahead.copy_sampled_tokens_to_host(picked, kv_store, sequences, prefilling_sequences)
        self.speculation.record_step(None)
        return list(zip(sequences, tokens, strict=True))

    def catch_up_recurrent_states(self, kv_store: KvStore, sequences: Sequence[TokenSequence]) -> None:
        """Run the model until the recurrent states of each sequence cover all tokens except the last.

        States lag further behind after rejected draft tokens.
        """
        if kv_store.states is None or not self.speculation.copies_states:
            return  # no guess was in them
        pieces = []
        for slot, row in enumerate(sequences):
            behind = get_unprocessed_tokens(kv_store, slot, row)[:-1]
            if behind:
                first = row.kv.places - len(behind)
                pieces.append(TokenSpan(row, slot, behind, first, is_last=False))
        if pieces:
            self.forward.run_token_spans(kv_store, pieces, is_decoding=True)

    def _advance_positions(self, kv_store: KvStore, sequences: Sequence[TokenSequence]) -> None:
        for slot, row in enumerate(sequences):
            row.kv.places += 1
            kv_store.set_num_filled(slot, row.kv.places)
        self.stats.decode_tokens += len(sequences)
