"""Interface of speculative decoding, and verification of draft tokens in a single forward pass.

Draft tokens are read after a sequence's last token. The model's choice after each of them
is sampled as in single steps: from the same logits, with the sequence's next random
number, and with penalties for the tokens before. As long as the choice equals the draft
token, the next one counts too. So sampled and greedy outputs equal those of single steps,
whatever is drafted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from runner_engine.decode.passes import Forward, HiddenStateReader, TokenSpan
from runner_engine.decode.sequences import NO_TOKEN, TokenSequence
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kernels import token_selection
from runner_engine.kv_cache import KvStore

Drafts = list[list[int]]  # the guess of each row, which may be empty


class Speculator(Protocol):
    """Proposes and verifies draft tokens for sequences."""

    copies_states: bool  # whether there are guesses for rows that carry a state

    def propose_drafts(
        self, sequences: Sequence[TokenSequence], forward: Forward, sampler: Sampler
    ) -> Drafts:
        """Return draft tokens for each sequence, or an empty list if there is nothing to verify."""

    def verify_drafts(
        self,
        forward: Forward,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[TokenSequence, int]]:
        """Verify draft tokens in one forward pass.

        Returns (sequence, token) pairs of the new tokens, sequence by sequence.
        """

    def record_step(self, num_tokens: int | None) -> None:
        """Record the end of a decoding step.

        num_tokens: tokens that the step produced; None if the step had no draft tokens.
        """

    def reset(self) -> None:
        """Forget all sequences. Called after an out-of-memory error, and when no sequence is left."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of memory that drafting needs for each token of a sequence."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes of memory that drafting needs for each sequence, independent of the sequence length."""

    @property
    def hidden_reader(self) -> HiddenStateReader | None:
        """Object that receives the model's hidden states, or None if drafting needs no hidden states."""


def verify_draft_tokens(
    forward: Forward,
    kv_store: KvStore,
    sequences: Sequence[TokenSequence],
    drafts: Drafts,
    sampler: Sampler,
    stopping: Stopping,
) -> list[list[int]]:
    """Verify draft tokens in one forward pass.

    Returns, per sequence, the accepted draft tokens and one more token.
    """
    states = kv_store.states
    guessed = [slot for slot, draft in enumerate(drafts) if draft]
    saved = None if states is None else states.save_states(guessed)
    longest = max(row.kv.places + len(draft) for row, draft in zip(sequences, drafts, strict=True))
    kv_store.ensure_capacity(longest + 1, max(row.max_kv_tokens for row in sequences))
    pieces = []
    for slot, (row, draft) in enumerate(zip(sequences, drafts, strict=True)):
        unread = get_unprocessed_tokens(kv_store, slot, row)
        first = row.kv.places + 1 - len(unread)
        pieces.append(TokenSpan(row, slot, [*unread, *draft], first, targets=[*draft, NO_TOKEN]))
    logits = forward.run_token_spans(kv_store, pieces, is_decoding=True)
    firsts = [0, *accumulate(piece.num_logits for piece in pieces)][:-1]
    stopping.constrain_logits(logits, sequences, firsts)
    new: Drafts = [[] for _ in sequences]
    if all(map(sampler.is_greedy, range(len(sequences)))):
        picked: list[int] = token_selection.argmax(logits).tolist()
        for row, draft, first, of_row in zip(sequences, drafts, firsts, new, strict=True):
            for token in picked[first : first + len(draft) + 1]:
                of_row.append(token)
                if not _can_continue_verification(row, draft, of_row, stopping):
                    break
    else:
        going, at = list(range(len(sequences))), 0
        while going:
            some = sampler if len(going) == len(sequences) else sampler.select_sequences(going)
            lines = [firsts[slot] + at for slot in going]
            for slot, token in zip(going, some.sample(logits[lines]).tolist(), strict=True):
                new[slot].append(token)
            going = [
                slot
                for slot in going
                if _can_continue_verification(sequences[slot], drafts[slot], new[slot], stopping)
            ]
            at += 1
    for slot, (row, draft) in enumerate(zip(sequences, drafts, strict=True)):
        # places of wrong guesses will be overwritten
        kv_store.set_num_filled(slot, row.kv.places + len(draft) + 1)
        row.kv.places += len(new[slot])
    if states is not None and saved is not None:
        states.restore_states(saved, [slot for slot in guessed if len(new[slot]) <= len(drafts[slot])])
    return new


def get_unprocessed_tokens(kv_store: KvStore, slot: int, sequence: TokenSequence) -> list[int]:
    """Return the tokens at the end of a sequence that the model has not processed yet.

    Usually that is one token. After a rejected draft, the tokens that the restored recurrent
    state lacks come before it.
    """
    if kv_store.states is None:
        return sequence.tokens[-1:]
    behind = sequence.kv.num_shared_tokens + sequence.kv.places - kv_store.states.read[slot]
    if behind < 0:  # it stands for guessed tokens behind the end of the row
        return sequence.tokens[-1:]
    return sequence.tokens[-1 - behind :]


def count_accepted_tokens(draft_tokens: Sequence[int], new_tokens: Sequence[int]) -> int:
    """Return the number of leading draft tokens that equal the new tokens."""
    pairs = zip(draft_tokens, new_tokens, strict=False)  # there may be fewer new ones, or one more
    return next(
        (at for at, (guess, token) in enumerate(pairs) if guess != token),
        min(len(draft_tokens), len(new_tokens)),
    )


def _can_continue_verification(
    sequence: TokenSequence, draft_tokens: list[int], new_tokens: list[int], stopping: Stopping
) -> bool:
    """Whether verification continues with the next draft token.

    The last new token must equal its draft token, and no token may be forced next.
    """
    at = len(new_tokens) - 1
    if at >= len(draft_tokens) or new_tokens[at] != draft_tokens[at]:
        return False
    if sequence.thought.budget is None:
        return True
    thought = copy.deepcopy(sequence.thought)  # it is to follow the tokens when they are accepted
    stopping.thoughts.update(thought, [*sequence.tokens, *new_tokens])
    return not thought.forced
