"""Guesses for every row at each step: greedy and sampled ones, however many, whatever the clock
says. How much of them was right is counted by the place in the guess, for each row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_engine.decode.drafting.contract import Drafter
from runner_engine.decode.passes import Forward, HiddenReader
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens import Drafts, Sampler, Stopping, check_guesses, right_ones
from runner_engine.kv_cache import OwnKv
from runner_engine.sessions import EngineStats, summed


class Steady:
    """Lets a drafter guess for all rows that decode."""

    copies_states = True

    def __init__(self, stats: EngineStats, drafter: Drafter, tokens: int) -> None:
        """tokens: of a guess at most."""
        self.stats, self.drafter, self.tokens = stats, drafter, tokens

    @property
    def bytes_per_token(self) -> int:
        """What the drafter keeps in memory for each token of a row."""
        return self.drafter.bytes_per_token

    @property
    def bytes_per_row(self) -> int:
        """What the drafter keeps in memory for each row, however long it is."""
        return self.drafter.bytes_per_row

    @property
    def hidden_reader(self) -> HiddenReader | None:
        """Who wants to know what the model's head reads; None: nobody."""
        return self.drafter.hidden_reader

    def drafts(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> Drafts:
        """Return a guess for each row, which may be empty, or an empty list if no row wants one."""
        if not any(row.request.is_guessed for row in rows):
            return []
        most = [self._most(row, forward) for row in rows]
        guesses = self.drafter.propose(rows, most)
        return [_known(guess, sampler.vocab_size, forward.rows) for guess in guesses]

    def _most(self, row: Row, forward: Forward) -> int:
        """Return how many tokens may be guessed: none beyond the row's limit, while the end of its
        thinking is forced, or where a grammar holds it."""
        if row.thought.forced or row.held is not None or not row.request.is_guessed:
            return 0
        room = math.inf if forward.fused is None else forward.fused.positions
        left = min(room - len(row.prompt), row.limit - 1) - len(row.tokens)
        return max(int(min(self.tokens, left)), 0)

    def check(
        self,
        forward: Forward,
        own: OwnKv,
        rows: Sequence[Row],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[Row, int]]:
        """Return the new tokens, row by row and in order, and count what was right."""
        new = check_guesses(forward, own, rows, drafts, sampler, stopping)
        drafted, accepted = [0] * self.tokens, [0] * self.tokens
        for row, draft, of_row in zip(rows, drafts, new, strict=True):
            right = right_ones(draft, of_row)
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
        self.stats.drafted_at = summed(self.stats.drafted_at, drafted)
        self.stats.accepted_at = summed(self.stats.accepted_at, accepted)
        self.stats.decode_tokens += sum(map(len, new))
        return [(row, token) for row, of_row in zip(rows, new, strict=True) for token in of_row]

    def note(self, tokens: int | None) -> None:
        """Do nothing: no time is measured."""

    def forget(self) -> None:
        """Forget the rows."""
        self.drafter.forget()


def _known(guess: list[int], *rows: int) -> list[int]:
    """Return a guess up to the first token that the model cannot read."""
    end = next((at for at, token in enumerate(guess) if not 0 <= token < min(rows)), len(guess))
    return guess[:end]
