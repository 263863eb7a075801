"""A draft model guesses: a smaller model with the same tokenizer, or the same one in fewer bits or
with fewer layers.

It has weights and a key-value store of its own. Each row of the model has a row here, with the same
prompt and tokens, which is read as far as it is known: a prompt when the row begins to decode, and
later what the model has accepted and the draft has not read. Prefixes that rows of the model share
are shared here, too. Its own tokens are always the most probable ones, so that a guess is a fixed
text, and the model may draw from its own distribution while it checks it.

Where layers of the draft carry a state, those of its rows are copied before the first guessed token
is read. A row with a wrong guess gets its own back, and reads what was right of it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import torch

from runner_engine.attention import PrefixUse
from runner_engine.decode.passes import Forward, HiddenReader, TokenSpan
from runner_engine.decode.rows import Row
from runner_engine.kernels import picking
from runner_engine.kv_cache import OwnKv, Prefix, RowKv, own_kv, put_state
from runner_engine.recurrent import SavedStates, state_bytes
from runner_engine.sessions import EngineStats

MOST_TOKENS = 2048  # of prompts that one pass reads
FEW_TOKENS = 32  # that a row may read in the pass of its guess: more are the beginning of a prompt


class Way:
    """Rows of a draft model beside those of the model, in the slots 0 … n-1 of a store."""

    hidden_reader: HiddenReader | None = None

    def __init__(self, stats: EngineStats, draft: Callable[[], Forward] | None) -> None:
        assert draft is not None
        self.stats = stats
        self._draft: Callable[[], Forward] = draft
        self._prefixes: WeakKeyDictionary[Prefix, Prefix] = WeakKeyDictionary()
        self.forget()

    @cached_property
    def forward(self) -> Forward:
        """The draft's passes."""
        return self._draft()

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers of the draft."""
        return self.forward.heads.bytes_per_token

    @property
    def bytes_per_row(self) -> int:
        """The states of a row, and their copy."""
        return 2 * state_bytes(self.forward.heads.states)

    def forget(self) -> None:
        """Forget the rows: their prompts are read again where they continue."""
        self.rows: list[DraftRow] = []  # by slot
        self._saved: SavedStates | None = None  # before the last guess, in the slots of then
        self._own: OwnKv | None = None
        self._uses: list[PrefixUse] | None = None  # the prefixes of all rows

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return the draft's own next tokens behind those of each row."""
        self._follow(rows)
        self._saved = None
        limits = dict(zip(rows, most, strict=True))
        for one in self.rows:
            one.guess = []
        going = [one for one in self.rows if self._may_guess(one, limits[one.of])]
        if going:
            self._read_beginnings(going)
        while going:
            for one, token in zip(going, self._next_tokens(going), strict=True):
                one.guess.append(token)
            going = [one for one in going if len(one.guess) < limits[one.of]]
            going = [one for one in going if 0 <= one.guess[-1] < self.forward.rows]
            if self._saved is None:
                self._saved = self._copied(going)
            for one in going:
                one.row.tokens.append(one.guess[-1])
        guess_of = {one.of: one.guess for one in self.rows}
        return [guess_of[row] for row in rows]

    def _may_guess(self, one: DraftRow, limit: int) -> bool:
        """Whether the draft knows all tokens of a row, and has room for its guess."""
        fused = self.forward.fused
        known = len(one.row.prompt) + len(one.row.tokens)
        has_room = fused is None or known + limit <= fused.positions
        is_read = one.of_draft_vocabulary(self.forward.rows)
        return limit > 0 and has_room and is_read

    # ----------------------------------------------------------------- the same rows as the model's

    def _follow(self, rows: Sequence[Row]) -> None:
        """Let rows leave and enter as they did in the model, and take over their tokens."""
        own = self._own = self._own or own_kv(self.forward.heads, self.forward.kernels)
        wanted, before = set(rows) - self._give_states_back(own), len(self.rows)
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].of not in wanted:
                own.remove(slot, len(self.rows))
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                self._uses = None
        known = {one.of for one in self.rows}
        entering = [self._entering(row) for row in rows if row not in known]
        if not entering and len(self.rows) < before:
            own.keep_spare(0)
        if entering:
            first = len(self.rows)
            self.rows += entering
            self._uses = None
            needs = [one.row.need for one in self.rows]
            held = [len(one.row.pending) for one in self.rows]
            own.insert(first, len(entering), needs, held, len(self.rows))
            for slot, one in enumerate(entering, start=first):
                own.set_beginning(slot, not one.row.kv.path)
        for one in self.rows:
            one.take_over()

    def _copied(self, going: Sequence[DraftRow]) -> SavedStates | None:
        """Return copies of the states of rows whose next token is a guess; None without states."""
        if self._own is None or self._own.states is None or not going:
            return None
        return self._own.states.saved([self.rows.index(one) for one in going])

    def _give_states_back(self, own: OwnKv) -> set[Row]:
        """Let no state stand for a guess that was wrong; return the rows of the model that must be
        read anew for that."""
        lost, saved = set[Row](), self._saved
        if own.states is None:
            return lost
        for slot, one in enumerate(self.rows):
            one.take_over()
            known = one.row.kv.shared + one.row.kv.places
            if own.states.read[slot] <= known:
                continue  # no guess was read into it, or all of it was right
            if saved is not None and slot in saved.slots:
                own.states.restore(saved, [slot])
                one.row.kv.places = own.states.read[slot] - one.row.kv.shared
            if own.states.read[slot] > known:
                lost.add(one.of)
        return lost

    def _entering(self, row: Row) -> DraftRow:
        """Return the draft's row of one of the model's."""
        return DraftRow(row, row.prompt, self._prefix(row.kv.prefix))

    def _prefix(self, of: Prefix | None) -> Prefix | None:
        """Return the draft's prefix with the tokens of one of the model's."""
        if of is None or self.forward.kernels is None:
            return None  # without kernels each row reads its whole prompt
        parent, known = self._prefix(of.parent), self._prefixes.get(of)
        if known is None or known.tokens != of.tokens or known.parent is not parent:
            known = self._prefixes[of] = Prefix(list(of.tokens), parent)
        return known

    # --------------------------------------------------------------------------------------- passes

    def _read_beginnings(self, going: Sequence[DraftRow]) -> None:
        """Read prefixes, and prompts up to the tokens of the next pass: that is the time of
        prompts."""
        started, has_read = time.perf_counter(), False
        for one in going:
            for prefix in one.row.kv.needed:
                while prefix.kv is None:
                    self._read_prefix(prefix)
                    has_read = True
        self._continue_prefixes(going)
        while long := [one for one in going if one.unread > FEW_TOKENS]:
            pieces, left = [], MOST_TOKENS
            for one in long:
                if left:
                    pieces.append(self._piece(one, min(one.unread - 1, left), is_last=False))
                    left -= len(pieces[-1].ids)
            self._read(pieces)
            has_read = True
        if has_read:
            self.stats.prefill_s += time.perf_counter() - started

    def _continue_prefixes(self, going: Sequence[DraftRow]) -> None:
        """Let the states of rows that have read nothing be those of their prefixes."""
        if self._own is None or self._own.states is None:
            return
        for one in going:
            slot = self.rows.index(one)
            if not self._own.states.read[slot]:
                put_state(self._own, slot, one.row.kv.prefix)

    def _next_tokens(self, going: Sequence[DraftRow]) -> list[int]:
        """Read what is not read of these rows, and return the most probable next token of each."""
        assert self._own is not None
        if len(going) == len(self.rows) and all(one.unread == 1 for one in going):
            rows = [one.row for one in going]
            self._own.lengthen(max(row.kv.places for row in rows) + 1, max(row.need for row in rows))
            if self._uses is None:
                self._uses = self.forward.uses_of(rows)
            self._begin_pass([(one, one.row.kv.places, 1) for one in going])
            logits = self.forward.step(self._own, rows, self._uses)
            for slot, row in enumerate(rows):
                row.kv.places += 1
                self._own.fill(slot, row.kv.places)
        else:
            logits = self._read([self._piece(one, one.unread, is_last=True) for one in going])
        tokens: list[int] = picking.argmax(logits).tolist()
        return tokens

    def _piece(self, one: DraftRow, count: int, is_last: bool) -> TokenSpan:
        row, start, last = one.row, one.row.kv.places, one.unread
        is_answer = last <= len(row.tokens)
        unread = row.tokens[len(row.tokens) - last :] if is_answer else row.pending[start:]
        ids = unread[:count]
        return TokenSpan(row, self.rows.index(one), ids, start, is_last=is_last)

    def _begin_pass(self, pieces: Sequence[tuple[DraftRow, int, int]]) -> None:
        """Prepare a pass that reads so many tokens of each row from a place on: nothing, here."""

    def _read_prefix(self, prefix: Prefix) -> None:
        self.forward.read_prefix(prefix, MOST_TOKENS)

    def _read(self, pieces: Sequence[TokenSpan]) -> torch.Tensor:
        assert self._own is not None
        longest = max(piece.before + len(piece.ids) for piece in pieces)
        self._own.lengthen(longest, max(piece.row.need for piece in pieces))
        self._begin_pass([(self.rows[one.slot], one.before, len(one.ids)) for one in pieces])
        logits = self.forward.read_prompts(self._own, pieces)
        for piece in pieces:
            piece.row.kv.places += len(piece.ids)
            self._own.fill(piece.slot, piece.row.kv.places)
        return logits


class DraftRow:
    """A row of the model, as the draft has it."""

    def __init__(self, of: Row, prompt: list[int], prefix: Prefix | None) -> None:
        self.of = of
        self.row = Row(of.request, prompt, "", of.limit, kv=RowKv(prefix))
        self.guess: list[int] = []
        self._same = 0  # tokens that both have for certain
        self._largest = max(of.prompt, default=0)  # of the tokens that it must read

    def take_over(self) -> None:
        """Take over the tokens of the model's row; what was read beyond them is overwritten."""
        row, tokens = self.row, self.of.tokens
        same = min(self._same, len(tokens))
        while same < min(len(row.tokens), len(tokens)) and row.tokens[same] == tokens[same]:
            same += 1
        own_prompt = len(row.prompt) - row.kv.shared
        # the last token is read in any case: the guess is what follows it
        row.kv.places = min(row.kv.places, own_prompt + min(same, len(tokens) - 1))
        row.tokens[same:] = tokens[same:]
        self._largest = max(self._largest, *tokens[same:], 0)
        self._same = len(tokens)

    @property
    def unread(self) -> int:
        """How many of its tokens the draft has not read."""
        row = self.row
        return len(row.prompt) - row.kv.shared + len(row.tokens) - row.kv.places

    def of_draft_vocabulary(self, rows: int) -> bool:
        """Whether the draft has an embedding for each of its tokens."""
        return self._largest < rows
