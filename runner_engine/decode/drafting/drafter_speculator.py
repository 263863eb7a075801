"""Speculative decoding at every step, for greedy and sampled sequences. Its speed is not measured.

Accepted tokens are counted per position in the draft and per sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_engine.decode.drafting.contract import Drafter
from runner_engine.decode.passes import Forward, HiddenStateReader
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Drafts, Sampler, Stopping, count_accepted_tokens, verify_draft_tokens
from runner_engine.kv_cache import KvStore
from runner_engine.sessions import EngineStats, add_counts


class DrafterSpeculator:
    """Proposes and verifies draft tokens for all decoding sequences, with one drafter."""

    copies_states = True

    def __init__(self, stats: EngineStats, drafter: Drafter, max_draft_tokens: int) -> None:
        self.stats, self.drafter, self.tokens = stats, drafter, max_draft_tokens

    @property
    def bytes_per_token(self) -> int:
        return self.drafter.bytes_per_token

    @property
    def bytes_per_row(self) -> int:
        return self.drafter.bytes_per_row

    @property
    def hidden_reader(self) -> HiddenStateReader | None:
        return self.drafter.hidden_reader

    def propose_drafts(
        self, sequences: Sequence[TokenSequence], forward: Forward, sampler: Sampler
    ) -> Drafts:
        """Return draft tokens for each sequence. A sequence may get no draft tokens.

        Returns an empty list if no sequence can use a draft.
        """
        if not any(row.request.is_guessed for row in sequences):
            return []
        most = [self._compute_max_draft_tokens(row, forward) for row in sequences]
        guesses = self.drafter.propose(sequences, most)
        return [
            _truncate_draft_at_unknown_token(guess, sampler.vocab_size, forward.rows) for guess in guesses
        ]

    def _compute_max_draft_tokens(self, sequence: TokenSequence, forward: Forward) -> int:
        """Return the maximum number of draft tokens for a sequence.

        Zero at the sequence's limit, while the end of thinking is forced, or under a grammar.
        """
        if sequence.thought.forced or sequence.held is not None or not sequence.request.is_guessed:
            return 0
        room = math.inf if forward.fused is None else forward.fused.positions
        left = min(room - len(sequence.prompt), sequence.limit - 1) - len(sequence.tokens)
        return max(int(min(self.tokens, left)), 0)

    def verify_drafts(
        self,
        forward: Forward,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[TokenSequence, int]]:
        """Verify draft tokens and count accepted ones.

        Returns (sequence, token) pairs of the new tokens, sequence by sequence.
        """
        new = verify_draft_tokens(forward, kv_store, sequences, drafts, sampler, stopping)
        drafted, accepted = [0] * self.tokens, [0] * self.tokens
        for row, draft, of_row in zip(sequences, drafts, new, strict=True):
            right = count_accepted_tokens(draft, of_row)
            # behind the first wrong token nothing was tried
            looked_at = min(len(draft), right + 1)
            row.guessed = row.guessed or ([0] * self.tokens, [0] * self.tokens)
            for place in range(looked_at):
                drafted[place] += 1
                accepted[place] += place < right
                row.guessed[0][place] += 1
                row.guessed[1][place] += place < right
            self.stats.draft_tokens += len(draft)
            self.stats.accepted_tokens += right
        # new objects: whoever measures keeps the earlier ones
        self.stats.drafted_at = add_counts(self.stats.drafted_at, drafted)
        self.stats.accepted_at = add_counts(self.stats.accepted_at, accepted)
        self.stats.decode_tokens += sum(map(len, new))
        return [(row, token) for row, of_row in zip(sequences, new, strict=True) for token in of_row]

    def record_step(self, num_tokens: int | None) -> None:
        """Do nothing, because this speculator does not measure speed."""

    def reset(self) -> None:
        self.drafter.reset()


def _truncate_draft_at_unknown_token(draft: list[int], *vocab_sizes: int) -> list[int]:
    """Truncate a draft before the first token that has no embedding in the model."""
    end = next((at for at, token in enumerate(draft) if not 0 <= token < min(vocab_sizes)), len(draft))
    return draft[:end]
