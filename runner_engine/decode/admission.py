"""Chooses the sequences that enter the next forward pass and the prompt tokens that the pass prefills.

While a long prompt is prefilled in chunks, active sequences decode in the same passes and
do not wait. Attention in plain torch would copy their keys for that, so there they decode
between these passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.decode.decoder import Decoder
from runner_engine.decode.kv_budget import KvBudget
from runner_engine.decode.passes import ChunkSizer, TokenSpan
from runner_engine.decode.sequences import SequenceQueues, TokenSequence
from runner_engine.kv_cache import NewPrompt
from runner_engine.sessions import EngineStats, SequenceShortage

MIN_PIECE = 64  # tokens of a prompt that one pass reads, even if memory is short
SHARE_OF_PIECES = 2  # one in so many tokens of a pass is for long prompts, while other rows could enter
SHARE_TO_ENTER = 8  # one in so many rows has to leave before others enter, if decoding waits for that pass


class Admission:
    """Decides which waiting sequences enter the running batch.

    Sequences with common prefixes are neighbors in the queue.
    """

    def __init__(
        self,
        queues: SequenceQueues,
        kv_budget: KvBudget,
        decoder: Decoder,
        stats: EngineStats,
        max_sequences: int | None,
    ) -> None:
        self.rows, self.kv, self.decoder, self.stats = queues, kv_budget, decoder, stats
        self.asked_rows = max_sequences  # None: any number
        self.pace = ChunkSizer()
        self.reset()

    def reset(self) -> None:
        self.most_rows = self.asked_rows or self.kv.heads.max_sequences
        self.full_at = 0  # number of rows when the next one did not fit; 0: all have fitted
        self.has_noted_shortage = False

    def enqueue_waiting_sequences(
        self, sequences: Sequence[TokenSequence], upcoming_prompts: Sequence[list[int]] = ()
    ) -> None:
        """Append sequences to the waiting queue.

        Upcoming prompts arrive later and may share prefixes with these sequences.
        """
        prompts = [NewPrompt(row.prompt, row.kv, row.given is not None) for row in sequences]
        beginnings = dict(
            zip(sequences, self.kv.prefixes.assign_shared_prefixes(prompts, upcoming_prompts), strict=True)
        )
        # the longest first
        self.rows.waiting.extend(sorted(sequences, key=lambda row: (beginnings[row], -row.max_kv_tokens)))

    def update_budget(self) -> None:
        if self.kv.update_budget():
            self.full_at = 0

    def halve_max_sequences(self, num_running: int) -> None:
        self.most_rows = max(min(num_running or self.most_rows, self.most_rows) // 2, 1)

    # --------------------------------------------------------------------------- how many, and when

    def num_admissible(self) -> int:
        waiting, reads_with_kernels = (
            self.rows.waiting,
            bool(self.rows.reading) and self.decoder.has_kernels,
        )
        return self.compute_max_sequences_to_admit(
            reads_with_kernels or (bool(waiting) and self.can_join_decode_pass(waiting[0]))
        )

    def compute_max_sequences_to_admit(self, shares_decode_pass: bool) -> int:
        """Return how many waiting sequences may enter the batch.

        Returns 0 if they are too few to justify a prefill pass during which decoding waits.
        """

        def min_new_sequences(num_sequences: int) -> int:  # a pass for one row costs as much as one for ten
            return 1 if shares_decode_pass else max(num_sequences // SHARE_TO_ENTER, 1)

        in_slots, waiting = len(self.rows.in_slots), len(self.rows.waiting)
        free = min(self.most_rows - in_slots, waiting)
        if not self.rows.active:
            return free
        is_full = bool(self.full_at) and in_slots > self.full_at - min_new_sequences(self.full_at)
        return 0 if is_full or free < min(min_new_sequences(self.most_rows), waiting) else free

    def can_join_decode_pass(self, sequence: TokenSequence) -> bool:
        """Whether a prompt can be prefilled in the same forward pass that decodes the active sequences.

        The kernels attend token by token in such a pass, so only short prompts join it.
        """
        return bool(self.rows.active) and len(sequence.pending_tokens) < self.decoder.short_span

    def max_prefill_tokens(self) -> int:
        """Return the maximum number of prompt tokens in the next forward pass.

        The tokens of decoding sequences are not counted.
        """
        most = self.kv.memory.max_prefill_tokens()
        decoding = len(self.rows.active) if self.decoder.has_kernels else 0
        return max(most - decoding, most // 4, MIN_PIECE)

    # ----------------------------------------------------------------------------------- which rows

    def admit_waiting_sequences(
        self, admitted: list[TokenSequence], max_sequences: int, max_tokens: int
    ) -> list[TokenSequence]:
        """Move sequences from the waiting queue to `admitted`.

        Returns the sequences whose prompts are too long for one forward pass.
        """
        waiting, reading, long = self.rows.waiting, self.rows.reading, list[TokenSequence]()
        tokens = positions = 0
        while waiting and len(admitted) < max_sequences:
            row = waiting[0]
            whole = len(admitted) - len(long)
            if (
                whole
                and not (reading or long)
                and self.can_join_decode_pass(row) != self.can_join_decode_pass(admitted[0])
            ):
                break
            self.kv.assign_reusable_kv(row)
            share = max_tokens - max_tokens // SHARE_OF_PIECES if reading or long else max_tokens
            left, wanted = len(row.pending_tokens) - row.kv.copied, len(row.given or ())
            is_long = left > share or wanted > self.decoder.most_scored or self._needs_short_spans(row, left)
            if (
                whole
                and not is_long
                and (tokens + left > share or positions + wanted > self.decoder.most_scored)
            ):
                break
            others = [*self.rows.in_slots, *admitted]
            if others and not self.kv.has_room_for(row, others):
                self.full_at = len(others)
                self._record_shortage(len(others))
                break
            if not self.decoder.prefill_prefixes(row, self.kv.prefixes, max_tokens):
                break
            admitted.append(waiting.popleft())
            if is_long:
                long.append(row)
            else:
                tokens, positions = tokens + left, positions + wanted
        return long

    def _needs_short_spans(self, sequence: TokenSequence, num_unread: int) -> bool:
        """Whether to prefill a resumed answer in short spans, which give the same logits as decoding.

        Short spans use the same attention computation as decoding.
        """
        return bool(sequence.tokens) and 1 < self.decoder.short_span <= num_unread

    def _record_shortage(self, num_sequences: int) -> None:
        if (
            self.asked_rows
            and not self.has_noted_shortage
            and num_sequences < self.most_rows == self.asked_rows
        ):
            self.has_noted_shortage = True
            self.stats.row_shortages.append(SequenceShortage(num_sequences, self.most_rows, self.kv.tokens))

    # --------------------------------------------------------------------------------- which tokens

    def plan_prefill_chunks(
        self,
        short_sequences: Sequence[TokenSequence],
        long_sequences: Sequence[TokenSequence],
        max_tokens: int,
    ) -> list[TokenSpan]:
        """Return the prompt chunks that the next forward pass prefills.

        Short prompts are whole. Long prompts are split to fit `max_tokens`.
        """
        first, most_scored, short_span = (
            len(self.rows.active),
            self.decoder.most_scored,
            self.decoder.short_span,
        )
        pieces = [
            plan_next_prefill_chunk(row, slot, len(row.pending_tokens), most_scored, short_span)
            for slot, row in enumerate(short_sequences, start=first)
        ]
        tokens = max(max_tokens - sum(len(piece.ids) for piece in pieces), max_tokens // SHARE_OF_PIECES)
        if self.rows.active and self.decoder.has_kernels:
            tokens = min(tokens, self.pace.tokens)
        positions = most_scored - sum(len(piece.targets) for piece in pieces)
        for slot, row in enumerate(long_sequences, start=first + len(short_sequences)):
            piece = plan_next_prefill_chunk(row, slot, tokens, positions, short_span)
            if piece.ids:
                pieces.append(piece)
            tokens, positions = tokens - len(piece.ids), positions - len(piece.targets)
            if not (piece.ids and piece.is_last and tokens):
                break  # the next long prompt begins when this one is done
        return pieces


def plan_next_prefill_chunk(
    sequence: TokenSequence, slot: int, max_tokens: int, max_logits: int, short_span_tokens: int
) -> TokenSpan:
    """Return the next chunk of a prompt, within the limits on tokens and on logits.

    Tokens of a resumed answer are prefilled after the prompt in short spans, which attend as in
    decoding. Without short spans, all tokens are prefilled together.
    """
    pending, start = sequence.pending_tokens, sequence.kv.places
    end = min(start + max_tokens, len(pending))
    if sequence.given is None:
        prompt = len(pending) - len(sequence.tokens)
        if sequence.tokens and 1 < short_span_tokens <= len(pending) - start:
            end = min(end, prompt if start < prompt else start + short_span_tokens - 1)
        return TokenSpan(sequence, slot, pending[start:end], start, is_last=end == len(pending))
    # the token that the continuation's first one follows
    scored_from = len(pending) - len(sequence.given)
    end = min(end, max(start, scored_from) + max_logits)
    targets = sequence.given[max(start - scored_from, 0) : max(end - scored_from, 0)]
    return TokenSpan(sequence, slot, pending[start:end], start, targets, end == len(pending))
