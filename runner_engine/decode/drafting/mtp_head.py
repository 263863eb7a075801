"""Drafter that uses the multi-token prediction (MTP) head of the model.

The head is a model of one layer. For each token it reads the target model's final hidden
state of the previous token. So its first token is the second token of a text, and the
target model reports the hidden states of every token. After the last token that the
target model has read, the head continues with its own hidden states. Tokens read in this
way are read again once the target model has computed them.

Sequences, slots and shared prefixes work as with a draft model. Prompt tokens whose keys
and values come from earlier requests have no hidden states. The head then begins after
them and drafts a little worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch

from runner_engine.decode.drafting import draft_model
from runner_engine.decode.drafting.draft_model import MOST_TOKENS, DraftSequence
from runner_engine.decode.passes import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kv_cache import Prefix
from runner_engine.sessions import EngineStats


class TokenDrafter(draft_model.TokenDrafter):
    """Proposes draft tokens with the model's MTP head, which reads the target model's hidden states."""

    def __init__(self, stats: EngineStats, load_draft_model: Callable[[], Forward] | None) -> None:
        super().__init__(stats, load_draft_model)
        self.hidden_reader = self
        self._seen: WeakKeyDictionary[TokenSequence, _HiddenStates] = WeakKeyDictionary()
        self._of_prefix: WeakKeyDictionary[Prefix, torch.Tensor] = WeakKeyDictionary()
        self._to_read: WeakKeyDictionary[Prefix, torch.Tensor] = WeakKeyDictionary()
        self._counts: list[int] = []  # tokens of each row in the pass that runs

    @property
    def bytes_per_token(self) -> int:
        """Bytes per token for the MTP head's keys and values and the target model's hidden state."""
        forward = self.forward
        width = forward.model.config.hidden_size
        return forward.heads.bytes_per_token + int(width) * forward.heads.dtype.itemsize

    # ------------------------------------------------------------------- what the model has computed

    def receive_prefix(self, prefix: Prefix, first_position: int, hidden_states: torch.Tensor) -> None:
        """Store the target model's hidden states of a shared prefix, from `first_position` on."""
        known = self._of_prefix.pop(prefix, hidden_states[:0])
        if first_position == 0 or first_position == len(known):
            self._of_prefix[prefix] = torch.cat([known[:first_position], hidden_states])

    def receive_sequence(self, sequence: TokenSequence, position: int, hidden_states: torch.Tensor) -> None:
        """Store the target model's hidden states of a sequence.

        `position` counts tokens after the shared prefixes.
        """
        self._seen.setdefault(sequence, _HiddenStates(position, hidden_states[:0])).replace_hidden_states(
            position, hidden_states
        )

    # ------------------------------------------------------------------------ the same rows as its

    def _create_draft_sequence(self, sequence: TokenSequence) -> DraftSequence:
        seen, prefix = self._seen.get(sequence), self._find_draft_prefix(sequence.kv.prefix)
        if seen is None:
            return _MtpSequence(sequence, sequence.prompt[1:], None, 0)
        if prefix is not None and seen.first == 0:
            return _MtpSequence(sequence, sequence.prompt[1:], prefix, -1)
        shared = sequence.kv.num_shared_tokens
        if seen.first == 0 and shared and self._get_prefix_hidden_states(sequence, shared) is not None:
            return _MtpSequence(sequence, sequence.prompt[1:], None, -shared)  # it reads all, without kernels
        return _MtpSequence(
            sequence, sequence.prompt[sequence.kv.num_shared_tokens + seen.first + 1 :], None, seen.first
        )

    def _find_draft_prefix(self, target_prefix: Prefix | None) -> Prefix | None:
        """Return the MTP head's copy of a shared prefix of the target model.

        Returns None if hidden states of the prefix are missing.
        """
        if target_prefix is None or self.forward.kernels is None:
            return None
        parent, hidden = self._find_draft_prefix(target_prefix.parent), self._of_prefix.get(target_prefix)
        is_unknown = hidden is None or len(hidden) != len(target_prefix.tokens)
        if is_unknown or (target_prefix.parent is not None and parent is None) or target_prefix.length < 2:
            return None
        assert hidden is not None
        before = hidden[:0] if target_prefix.parent is None else self._of_prefix[target_prefix.parent][-1:]
        tokens = target_prefix.tokens[1:] if target_prefix.parent is None else target_prefix.tokens
        known = self._prefixes.get(target_prefix)
        if known is None or known.tokens != tokens or known.parent is not parent:
            known = self._prefixes[target_prefix] = Prefix(list(tokens), parent)
            self._to_read[known] = torch.cat([before, hidden[:-1]])
        return known

    def _can_draft(self, draft_sequence: DraftSequence, max_draft_tokens: int) -> bool:
        is_known = (
            self._get_input_hidden_states(
                draft_sequence, draft_sequence.row.kv.places, draft_sequence.num_unprocessed_tokens
            )
            is not None
        )
        return is_known and super()._can_draft(draft_sequence, max_draft_tokens)

    # --------------------------------------------------------------------------------------- passes

    @property
    def _input_embedding_module(self) -> Any:
        return self.forward.model.get_input_embeddings()

    def _prefill_prefix(self, prefix: Prefix) -> None:
        self._input_embedding_module.hidden = self._to_read[prefix][prefix.read : prefix.read + MOST_TOKENS]
        super()._prefill_prefix(prefix)

    def _prepare_pass(self, spans: Sequence[tuple[DraftSequence, int, int]]) -> None:
        self._counts = [count for _, _, count in spans]
        hidden = [self._get_input_hidden_states(*piece) for piece in spans]
        self._input_embedding_module.hidden = torch.cat([one for one in hidden if one is not None])

    def _predict_next_tokens(self, draft_sequences: Sequence[DraftSequence]) -> list[int]:
        tokens = super()._predict_next_tokens(draft_sequences)
        hidden = self.forward.hidden
        assert hidden is not None
        for one, end in zip(draft_sequences, accumulate(self._counts), strict=True):
            assert isinstance(one, _MtpSequence)
            if not one.guess:  # all that was read so far, the model has computed
                one.sound = one.row.kv.places
                self._seen[one.of].drop_before(one.sound + one.begin)
            one.last = hidden[end - 1 : end]
        return tokens

    def _get_input_hidden_states(
        self, draft_sequence: DraftSequence, position: int, count: int
    ) -> torch.Tensor | None:
        """Return the hidden states that the MTP head takes as input for the next `count` tokens.

        Returns None if hidden states are missing.
        """
        assert isinstance(draft_sequence, _MtpSequence)
        if draft_sequence.guess:
            return draft_sequence.last
        first, parts = position + draft_sequence.begin, list[torch.Tensor]()
        if first < 0:
            before = self._get_prefix_hidden_states(draft_sequence.of, -first)
            if before is None:
                return None
            parts.append(before[:count])
            count -= len(parts[0])
        if count:
            seen = self._seen.get(draft_sequence.of)
            own = None if seen is None else seen.get_hidden_states(max(first, 0), count)
            if own is None:
                return None
            parts.append(own)
        return torch.cat(parts)

    def _get_prefix_hidden_states(self, sequence: TokenSequence, count: int) -> torch.Tensor | None:
        """Return the hidden states of the last `count` tokens of a sequence's prefix.

        Returns None if some are missing.
        """
        found, left = list[torch.Tensor](), count
        for prefix in reversed(sequence.kv.path):
            hidden = self._of_prefix.get(prefix)
            if hidden is None or len(hidden) != len(prefix.tokens):
                return None
            found.insert(0, hidden[max(len(hidden) - left, 0) :])
            left -= len(found[0])
            if not left:
                return torch.cat(found)
        return None


class _MtpSequence(DraftSequence):
    """The MTP head's copy of a target model's sequence."""

    def __init__(
        self, target: TokenSequence, prompt: list[int], prefix: Prefix | None, first_target_position: int
    ) -> None:
        """Create the MTP head's copy of a target model's sequence.

        first_target_position: the target position whose hidden state the head reads at its own
        position 0. A negative number counts tokens before the end of the prefixes.
        """
        super().__init__(target, prompt, prefix)
        self.begin = first_target_position
        self.sound = 0  # places that were read with what the model has computed
        self.last: torch.Tensor | None = None  # of the head's own last norm, behind its last token

    def sync_with_target_sequence(self) -> None:
        """Copy the target sequence's tokens.

        The MTP head reads tokens again that it read with its own hidden states.
        """
        super().sync_with_target_sequence()
        self.row.kv.places = min(self.row.kv.places, self.sound)


@dataclass
class _HiddenStates:
    """Hidden states of a sequence's unshared tokens. `first` is the position of the first of these tokens."""

    first: int
    hidden: torch.Tensor

    def replace_hidden_states(self, position: int, hidden_states: torch.Tensor) -> None:
        """Store hidden states from the given position on.

        Drops later hidden states, because they belong to rejected draft tokens.
        """
        known = position - self.first
        if 0 <= known <= len(self.hidden):
            self.hidden = torch.cat([self.hidden[:known], hidden_states])
        else:
            self.first, self.hidden = position, hidden_states

    def get_hidden_states(self, position: int, count: int) -> torch.Tensor | None:
        start = position - self.first
        if count and not 0 <= start <= len(self.hidden) - count:
            return None
        return self.hidden[start : start + count] if count else self.hidden[:0]

    def drop_before(self, position: int) -> None:
        self.hidden, self.first = self.hidden[max(position - self.first, 0) :], max(position, self.first)
