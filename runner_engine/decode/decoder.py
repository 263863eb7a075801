"""Which forward pass runs, and which tokens come of it: prompts are read, and active rows get a
token, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.decode.passes import Ahead, Forward, TokenSpan
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens import (
    Guesses,
    Sampler,
    Stopping,
    most_positions,
    read_and_score,
    sampler_of,
    unread_tokens,
)
from runner_engine.kv_cache import Heads, OwnKv, Prefixes
from runner_engine.sessions import EngineStats

NewTokens = list[tuple[Row, int]]  # in the order in which they came


class Decoder:
    """Computes the next tokens of rows; the active ones have the slots 0 … n-1 of the store."""

    def __init__(
        self,
        model: Any,
        heads: Heads,
        vocab_size: int,
        stats: EngineStats,
        stopping: Stopping,
        speculation: Guesses,
    ) -> None:
        self.stats, self.stopping, self.speculation = stats, stopping, speculation
        self.vocab_size, self.device = vocab_size, heads.device
        self.forward = Forward(model, heads)
        if speculation.hidden_reader is not None:
            self.forward.keep_hidden(speculation.hidden_reader)
        self.ahead = Ahead(self.forward)
        # positions of continuations, in one pass
        self.most_scored = most_positions(heads.device, vocab_size)
        self.reset()

    def reset(self) -> None:
        self.ahead.drop()
        self.speculation.forget()
        self.sampler = Sampler(self.vocab_size, self.device)
        self.ahead.change_rows()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these of the active rows, in this order."""
        self.sampler.keep(rows)
        self.ahead.change_rows()

    @property
    def has_kernels(self) -> bool:
        """Whether attention is by the kernels, in whose passes some rows decode while others are
        read."""
        return self.forward.kernels is not None

    @property
    def short_span(self) -> int:
        """From how many tokens on a span is not attended to token by token."""
        return self.forward.short_span

    @property
    def has_begun_step(self) -> bool:
        """Whether the active rows' next step has begun, and no row may enter it."""
        return self.ahead.has_begun

    # -------------------------------------------------------------------------------------- prompts

    def read_prefixes(self, row: Row, prefixes: Prefixes, most: int) -> bool:
        """Compute keys and values of a row's prefixes; return whether all are complete.

        A prefix of more than `most` tokens is read in one pass at each call, since other rows are
        decoding.
        """
        for prefix in row.kv.needed:
            if prefix.kv is None:
                freed = prefix.freed
                count = self.forward.read_prefix(prefix, most)
                prefixes.note_read(prefix, count - (prefix.freed - freed))
                self.stats.prefill_tokens += count
            if prefix.kv is None:
                return False
        return True

    def read(
        self, own: OwnKv, pieces: Sequence[TokenSpan], decoding: list[Row], joins_decoding: bool
    ) -> NewTokens:
        """Read pieces of prompts in one pass, and score continuations; return the next tokens of
        the other rows.

        decoding: active rows that get their next token, too: in this pass, or if not
        `joins_decoding`, from the step that has begun. Rows whose prompts end here become active.
        """
        self.catch_up(own, decoding)
        steps = [TokenSpan(row, slot, row.tokens[-1:], row.kv.places) for slot, row in enumerate(decoding)]
        logits = read_and_score(self.forward, own, [*steps, *pieces] if joins_decoding else pieces)
        of_decoding = self.ahead.take(decoding)
        if of_decoding is None:
            of_decoding, logits = logits[: len(decoding)], logits[len(decoding) :]
        for piece in pieces:
            piece.row.kv.places += len(piece.ids)
            own.fill(piece.slot, piece.row.kv.places)
        self.ahead.change_rows()
        started = [piece.row for piece in pieces if piece.is_last and piece.row.given is None]
        if not (started or decoding):
            return []
        newcomers = sampler_of(started, self.vocab_size, self.device)
        self.stopping.force(of_decoding, decoding)
        self.stopping.force(logits, started)
        picked = self.sampler.pick(of_decoding).tolist() if decoding else []
        picked += newcomers.pick(logits).tolist() if started else []
        self.sampler.take(newcomers)
        self._note_places(own, decoding)
        return list(zip([*decoding, *started], picked, strict=True))

    # ---------------------------------------------------------------------------------------- steps

    def step(self, own: OwnKv, rows: list[Row], reading: Sequence[Row]) -> NewTokens:
        """Give every active row its next token, or several that were guessed.

        reading: the rows in the slots behind them, whose prompts are not complete.
        """
        drafts = [] if self.ahead.has_begun else self.speculation.drafts(rows, self.forward, self.sampler)
        if drafts:
            new = self.speculation.check(self.forward, own, rows, drafts, self.sampler, self.stopping)
            self.speculation.note(len(new))
            return new
        self.catch_up(own, rows)
        logits = self.ahead.logits(own, rows, reading)
        self.stopping.force(logits, rows)
        picked = self.sampler.pick(logits)
        del logits  # the next step needs memory for its own
        self._note_places(own, rows)
        tokens = self.ahead.read(picked, own, rows, reading)
        self.speculation.note(None)
        return list(zip(rows, tokens, strict=True))

    def catch_up(self, own: OwnKv, rows: Sequence[Row]) -> None:
        """Let the states of rows, in the slots from 0 on, stand for all tokens but the last; after a
        wrong guess they stand for fewer."""
        if own.states is None or not self.speculation.copies_states:
            return  # no guess was in them
        pieces = []
        for slot, row in enumerate(rows):
            behind = unread_tokens(own, slot, row)[:-1]
            if behind:
                first = row.kv.places - len(behind)
                pieces.append(TokenSpan(row, slot, behind, first, is_last=False))
        if pieces:
            self.forward.read_prompts(own, pieces, is_decoded=True)

    def _note_places(self, own: OwnKv, rows: Sequence[Row]) -> None:
        """Note that each of these rows, the first ones, has one more token in its slot."""
        for slot, row in enumerate(rows):
            row.kv.places += 1
            own.fill(slot, row.kv.places)
        self.stats.decode_tokens += len(rows)
