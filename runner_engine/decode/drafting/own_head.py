"""The model's own head for the next tokens (MTP) guesses.

It is a model of one layer, which reads of each token what the model's last norm gave for the token
before. So its first token is the second one of a text, and the model hands out what it has computed
of every token (`HiddenReader`). Behind the last token that the model has read, the head goes on with
what its own last norm gives; what it has read so is read again when the model has computed it.

Rows, slots and shared prefixes are those of a draft model. Of a prompt whose keys and values were
kept from earlier requests nothing is computed: the head begins behind it, and guesses a little worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch

from runner_engine.decode.drafting import draft_model
from runner_engine.decode.drafting.draft_model import MOST_TOKENS, DraftRow
from runner_engine.decode.passes import Forward
from runner_engine.decode.rows import Row
from runner_engine.kv_cache import Prefix
from runner_engine.sessions import EngineStats


class Way(draft_model.Way):
    """Rows of the head beside those of the model; it is told what the model computes."""

    def __init__(self, stats: EngineStats, draft: Callable[[], Forward] | None) -> None:
        super().__init__(stats, draft)
        self.hidden_reader = self
        self._seen: WeakKeyDictionary[Row, _Seen] = WeakKeyDictionary()
        self._of_prefix: WeakKeyDictionary[Prefix, torch.Tensor] = WeakKeyDictionary()
        self._to_read: WeakKeyDictionary[Prefix, torch.Tensor] = WeakKeyDictionary()
        self._counts: list[int] = []  # tokens of each row in the pass that runs

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in the head, and what the model computes of it."""
        forward = self.forward
        width = forward.model.config.hidden_size
        return forward.heads.bytes_per_token + int(width) * forward.heads.dtype.itemsize

    # ------------------------------------------------------------------- what the model has computed

    def note_prefix(self, prefix: Prefix, first: int, hidden: torch.Tensor) -> None:
        """Take what was computed of a prefix, from its token `first` on."""
        known = self._of_prefix.pop(prefix, hidden[:0])
        if first == 0 or first == len(known):
            self._of_prefix[prefix] = torch.cat([known[:first], hidden])

    def note_row(self, row: Row, place: int, hidden: torch.Tensor) -> None:
        """Take what was computed of a row, from its own place `place` on."""
        self._seen.setdefault(row, _Seen(place, hidden[:0])).note(place, hidden)

    # ------------------------------------------------------------------------ the same rows as its

    def _entering(self, row: Row) -> DraftRow:
        seen, prefix = self._seen.get(row), self._prefix(row.kv.prefix)
        if seen is None:
            return _HeadRow(row, row.prompt[1:], None, 0)
        if prefix is not None and seen.first == 0:
            return _HeadRow(row, row.prompt[1:], prefix, -1)
        shared = row.kv.shared
        if seen.first == 0 and shared and self._of_path(row, shared) is not None:
            return _HeadRow(row, row.prompt[1:], None, -shared)  # it reads all, without kernels
        return _HeadRow(row, row.prompt[row.kv.shared + seen.first + 1 :], None, seen.first)

    def _prefix(self, of: Prefix | None) -> Prefix | None:
        """Return the head's prefix that goes with one of the model's; None where it has none."""
        if of is None or self.forward.kernels is None:
            return None
        parent, hidden = self._prefix(of.parent), self._of_prefix.get(of)
        is_unknown = hidden is None or len(hidden) != len(of.tokens)
        if is_unknown or (of.parent is not None and parent is None) or of.length < 2:
            return None
        assert hidden is not None
        before = hidden[:0] if of.parent is None else self._of_prefix[of.parent][-1:]
        tokens = of.tokens[1:] if of.parent is None else of.tokens
        known = self._prefixes.get(of)
        if known is None or known.tokens != tokens or known.parent is not parent:
            known = self._prefixes[of] = Prefix(list(tokens), parent)
            self._to_read[known] = torch.cat([before, hidden[:-1]])
        return known

    def _may_guess(self, one: DraftRow, limit: int) -> bool:
        is_known = self._hidden(one, one.row.kv.places, one.unread) is not None
        return is_known and super()._may_guess(one, limit)

    # --------------------------------------------------------------------------------------- passes

    @property
    def _joined(self) -> Any:
        return self.forward.model.get_input_embeddings()

    def _read_prefix(self, prefix: Prefix) -> None:
        self._joined.hidden = self._to_read[prefix][prefix.read : prefix.read + MOST_TOKENS]
        super()._read_prefix(prefix)

    def _begin_pass(self, pieces: Sequence[tuple[DraftRow, int, int]]) -> None:
        self._counts = [count for _, _, count in pieces]
        hidden = [self._hidden(*piece) for piece in pieces]
        self._joined.hidden = torch.cat([one for one in hidden if one is not None])

    def _next_tokens(self, going: Sequence[DraftRow]) -> list[int]:
        tokens = super()._next_tokens(going)
        hidden = self.forward.hidden
        assert hidden is not None
        for one, end in zip(going, accumulate(self._counts), strict=True):
            assert isinstance(one, _HeadRow)
            if not one.guess:  # all that was read so far, the model has computed
                one.sound = one.row.kv.places
                self._seen[one.of].drop_before(one.sound + one.begin)
            one.last = hidden[end - 1 : end]
        return tokens

    def _hidden(self, one: DraftRow, place: int, count: int) -> torch.Tensor | None:
        """Return what the head reads beside so many tokens of a row, from its place on; None where
        it is not known."""
        assert isinstance(one, _HeadRow)
        if one.guess:
            return one.last
        first, parts = place + one.begin, list[torch.Tensor]()
        if first < 0:
            before = self._of_path(one.of, -first)
            if before is None:
                return None
            parts.append(before[:count])
            count -= len(parts[0])
        if count:
            seen = self._seen.get(one.of)
            own = None if seen is None else seen.of(max(first, 0), count)
            if own is None:
                return None
            parts.append(own)
        return torch.cat(parts)

    def _of_path(self, row: Row, count: int) -> torch.Tensor | None:
        """Return what was computed of so many last tokens of the prefixes that a row continues; None
        where some of it is not known."""
        found, left = list[torch.Tensor](), count
        for prefix in reversed(row.kv.path):
            hidden = self._of_prefix.get(prefix)
            if hidden is None or len(hidden) != len(prefix.tokens):
                return None
            found.insert(0, hidden[max(len(hidden) - left, 0) :])
            left -= len(found[0])
            if not left:
                return torch.cat(found)
        return None


class _HeadRow(DraftRow):
    """A row of the model, as its head has it."""

    def __init__(self, of: Row, prompt: list[int], prefix: Prefix | None, begin: int) -> None:
        """begin: the place of the model's row whose result the head reads at its own place 0; below
        0: so many tokens before the end of its prefixes."""
        super().__init__(of, prompt, prefix)
        self.begin = begin
        self.sound = 0  # places that were read with what the model has computed
        self.last: torch.Tensor | None = None  # of the head's own last norm, behind its last token

    def take_over(self) -> None:
        """Take over the tokens of the model's row; what the head has guessed is read again."""
        super().take_over()
        self.row.kv.places = min(self.row.kv.places, self.sound)


@dataclass
class _Seen:
    """What was computed of a row's own places, from `first` on."""

    first: int
    hidden: torch.Tensor

    def note(self, place: int, hidden: torch.Tensor) -> None:
        """Take what was computed from a place on; what was there before, and behind it, was of
        wrong guesses."""
        known = place - self.first
        if 0 <= known <= len(self.hidden):
            self.hidden = torch.cat([self.hidden[:known], hidden])
        else:
            self.first, self.hidden = place, hidden

    def of(self, place: int, count: int) -> torch.Tensor | None:
        """Return what was computed of so many places; None where some are not known."""
        start = place - self.first
        if count and not 0 <= start <= len(self.hidden) - count:
            return None
        return self.hidden[start : start + count] if count else self.hidden[:0]

    def drop_before(self, place: int) -> None:
        """Forget what is not read again."""
        self.hidden, self.first = self.hidden[max(place - self.first, 0) :], max(place, self.first)
