"""What guesses at next tokens are to the decoder, and how one pass checks those of all rows.

A row's guess is read behind its last token, and the model's choice after each of its tokens is
picked as in single steps: from the same logits, with the row's next random number, and with
penalties for the tokens before. As long as the choice is the guessed token, the next one counts,
too. So whatever is guessed, the tokens are those of single steps, of sampled rows as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from runner_engine.decode.passes import Forward, HiddenReader, TokenSpan
from runner_engine.decode.rows import NO_TOKEN, Row
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kernels import picking
from runner_engine.kv_cache import OwnKv

Drafts = list[list[int]]  # the guess of each row, which may be empty


class Guesses(Protocol):
    """Guesses at the next tokens of rows, as the decoder uses them."""

    copies_states: bool  # whether there are guesses for rows that carry a state

    def drafts(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> Drafts:
        """Return a guess for each row, or an empty list where none is to be checked."""

    def check(
        self,
        forward: Forward,
        own: OwnKv,
        rows: Sequence[Row],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[Row, int]]:
        """Return the new tokens, row by row and in order."""

    def note(self, tokens: int | None) -> None:
        """Note that a step is over; tokens: how many it gave, None without guesses."""

    def forget(self) -> None:
        """Forget the rows: memory ran out, or there are none."""

    @property
    def bytes_per_token(self) -> int:
        """What it keeps in memory for each token of a row."""

    @property
    def bytes_per_row(self) -> int:
        """What it keeps in memory for each row, however long it is."""

    @property
    def hidden_reader(self) -> HiddenReader | None:
        """Who wants to know what the model's head reads; None: nobody."""


def check_guesses(
    forward: Forward, own: OwnKv, rows: Sequence[Row], drafts: Drafts, sampler: Sampler, stopping: Stopping
) -> list[list[int]]:
    """Read each row's last token with its guess; return the new tokens of each row: those of its
    guess that the model gives, and one more."""
    states = own.states
    guessed = [slot for slot, draft in enumerate(drafts) if draft]
    saved = None if states is None else states.saved(guessed)
    longest = max(row.kv.places + len(draft) for row, draft in zip(rows, drafts, strict=True))
    own.lengthen(longest + 1, max(row.need for row in rows))
    pieces = []
    for slot, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        unread = unread_tokens(own, slot, row)
        first = row.kv.places + 1 - len(unread)
        pieces.append(TokenSpan(row, slot, [*unread, *draft], first, targets=[*draft, NO_TOKEN]))
    logits = forward.read_prompts(own, pieces, is_decoded=True)
    firsts = [0, *accumulate(piece.wanted for piece in pieces)][:-1]
    stopping.force(logits, rows, firsts)
    new: Drafts = [[] for _ in rows]
    if all(map(sampler.is_greedy, range(len(rows)))):
        picked: list[int] = picking.argmax(logits).tolist()
        for row, draft, first, of_row in zip(rows, drafts, firsts, new, strict=True):
            for token in picked[first : first + len(draft) + 1]:
                of_row.append(token)
                if not _goes_on(row, draft, of_row, stopping):
                    break
    else:
        going, at = list(range(len(rows))), 0
        while going:
            some = sampler if len(going) == len(rows) else sampler.only(going)
            lines = [firsts[slot] + at for slot in going]
            for slot, token in zip(going, some.pick(logits[lines]).tolist(), strict=True):
                new[slot].append(token)
            going = [slot for slot in going if _goes_on(rows[slot], drafts[slot], new[slot], stopping)]
            at += 1
    for slot, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        # places of wrong guesses will be overwritten
        own.fill(slot, row.kv.places + len(draft) + 1)
        row.kv.places += len(new[slot])
    if states is not None and saved is not None:
        states.restore(saved, [slot for slot in guessed if len(new[slot]) <= len(drafts[slot])])
    return new


def unread_tokens(own: OwnKv, slot: int, row: Row) -> list[int]:
    """Return the last tokens of a row that its next pass reads: the last one, and with it those that
    a state does not stand for, which was brought back when a guess was wrong."""
    if own.states is None:
        return row.tokens[-1:]
    behind = row.kv.shared + row.kv.places - own.states.read[slot]
    if behind < 0:  # it stands for guessed tokens behind the end of the row
        return row.tokens[-1:]
    return row.tokens[-1 - behind :]


def right_ones(draft: Sequence[int], new: Sequence[int]) -> int:
    """Return how many tokens of a guess are among the new ones."""
    pairs = zip(draft, new, strict=False)  # there may be fewer new ones, or one more
    return next((at for at, (guess, token) in enumerate(pairs) if guess != token), min(len(draft), len(new)))


def _goes_on(row: Row, draft: list[int], new: list[int], stopping: Stopping) -> bool:
    """Whether the model's choice behind the last new token counts: that token was guessed, and
    nothing else has to follow."""
    at = len(new) - 1
    if at >= len(draft) or new[at] != draft[at]:
        return False
    if row.thought.budget is None:
        return True
    thought = copy.deepcopy(row.thought)  # it is to follow the tokens when they are accepted
    stopping.thoughts.follow(thought, [*row.tokens, *new])
    return not thought.forced
