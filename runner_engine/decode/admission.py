"""Who comes in and when: which rows enter the next pass, and which tokens of their prompts it
reads.

While a long prompt is read piece by piece, active rows decode in the same passes, so that no row
waits for it. With attention in plain torch, which would copy their keys for that, they decode
between these passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.decode.decoder import Decoder
from runner_engine.decode.kv_budget import KvBudget
from runner_engine.decode.passes import PiecePace, TokenSpan
from runner_engine.decode.rows import Row, RowsUnderWay
from runner_engine.kv_cache import NewPrompt
from runner_engine.sessions import EngineStats, RowShortage

MIN_PIECE = 64  # tokens of a prompt that one pass reads, even if memory is short
SHARE_OF_PIECES = 2  # one in so many tokens of a pass is for long prompts, while other rows could enter
SHARE_TO_ENTER = 8  # one in so many rows has to leave before others enter, if decoding waits for that pass


class Admission:
    """Decides which rows enter; rows that wait are in an order in which those with common
    beginnings are neighbours."""

    def __init__(
        self, rows: RowsUnderWay, kv: KvBudget, decoder: Decoder, stats: EngineStats, asked_rows: int | None
    ) -> None:
        self.rows, self.kv, self.decoder, self.stats = rows, kv, decoder, stats
        self.asked_rows = asked_rows  # None: any number
        self.pace = PiecePace()
        self.reset()

    def reset(self) -> None:
        """Forget shortages of memory."""
        self.most_rows = self.asked_rows or self.kv.heads.most_rows
        self.full_at = 0  # number of rows when the next one did not fit; 0: all have fitted
        self.has_noted_shortage = False

    def add(self, rows: Sequence[Row], mentioned: Sequence[list[int]] = ()) -> None:
        """Add rows behind those that are waiting; they share beginnings with the prompts that are
        mentioned, too."""
        prompts = [NewPrompt(row.prompt, row.kv, row.given is not None) for row in rows]
        beginnings = dict(zip(rows, self.kv.prefixes.arrange(prompts, mentioned), strict=True))
        # the longest first
        self.rows.waiting.extend(sorted(rows, key=lambda row: (beginnings[row], -row.need)))

    def set_budget(self) -> None:
        """Set the budget by free memory; where it has grown, the next row may fit."""
        if self.kv.set_budget():
            self.full_at = 0

    def halve(self, at_once: int) -> None:
        """Let half as many rows be in the KV cache from now on as there were."""
        self.most_rows = max(min(at_once or self.most_rows, self.most_rows) // 2, 1)

    # --------------------------------------------------------------------------- how many, and when

    def may_enter(self) -> int:
        """Return how many rows may enter now."""
        waiting, reads_with_kernels = (
            self.rows.waiting,
            bool(self.rows.reading) and self.decoder.has_kernels,
        )
        return self.most_entering(reads_with_kernels or (bool(waiting) and self.joins_decoding(waiting[0])))

    def most_entering(self, joins_decoding: bool) -> int:
        """Return how many rows may enter now; 0 if they are too few to be worth a pass without
        decoding."""

        def few(rows: int) -> int:  # a pass for one row costs as much as one for ten
            return 1 if joins_decoding else max(rows // SHARE_TO_ENTER, 1)

        in_slots, waiting = len(self.rows.in_slots), len(self.rows.waiting)
        free = min(self.most_rows - in_slots, waiting)
        if not self.rows.active:
            return free
        is_full = bool(self.full_at) and in_slots > self.full_at - few(self.full_at)
        return 0 if is_full or free < min(few(self.most_rows), waiting) else free

    def joins_decoding(self, row: Row) -> bool:
        """Whether a row's prompt is read in a pass in which active rows decode: the kernels attend
        token by token."""
        return bool(self.rows.active) and len(row.pending) < self.decoder.short_span

    def most_tokens(self) -> int:
        """Return how many tokens of prompts the next pass may read besides one token of each
        decoding row."""
        most = self.kv.memory.most_tokens()
        decoding = len(self.rows.active) if self.decoder.has_kernels else 0
        return max(most - decoding, most // 4, MIN_PIECE)

    # ----------------------------------------------------------------------------------- which rows

    def choose(self, entering: list[Row], free: int, most: int) -> list[Row]:
        """Move rows that enter now from `waiting` to `entering`; return those that are too long for
        one pass."""
        waiting, reading, long = self.rows.waiting, self.rows.reading, list[Row]()
        tokens = positions = 0
        while waiting and len(entering) < free:
            row = waiting[0]
            whole = len(entering) - len(long)
            if (
                whole
                and not (reading or long)
                and self.joins_decoding(row) != self.joins_decoding(entering[0])
            ):
                break
            self.kv.find_copies(row)
            share = most - most // SHARE_OF_PIECES if reading or long else most
            left, wanted = len(row.pending) - row.kv.copied, len(row.given or ())
            is_long = left > share or wanted > self.decoder.most_scored or self._is_read_in_spans(row, left)
            if (
                whole
                and not is_long
                and (tokens + left > share or positions + wanted > self.decoder.most_scored)
            ):
                break
            others = [*self.rows.in_slots, *entering]
            if others and not self.kv.fits(row, others):
                self.full_at = len(others)
                self._note_shortage(len(others))
                break
            if not self.decoder.read_prefixes(row, self.kv.prefixes, most):
                break
            entering.append(waiting.popleft())
            if is_long:
                long.append(row)
            else:
                tokens, positions = tokens + left, positions + wanted
        return long

    def _is_read_in_spans(self, row: Row, left: int) -> bool:
        """Whether a row's answer was begun, and its tokens are read in short spans, as they were
        decoded."""
        return bool(row.tokens) and 1 < self.decoder.short_span <= left

    def _note_shortage(self, rows: int) -> None:
        """Note once that fewer concurrent rows than requested have room."""
        if self.asked_rows and not self.has_noted_shortage and rows < self.most_rows == self.asked_rows:
            self.has_noted_shortage = True
            self.stats.row_shortages.append(RowShortage(rows, self.most_rows, self.kv.tokens))

    # --------------------------------------------------------------------------------- which tokens

    def pieces(self, whole: Sequence[Row], reading: Sequence[Row], most: int) -> list[TokenSpan]:
        """Return what this pass reads: whole prompts, and in order as many pieces of long ones as
        fit."""
        first, most_scored, short_span = (
            len(self.rows.active),
            self.decoder.most_scored,
            self.decoder.short_span,
        )
        pieces = [
            next_piece(row, slot, len(row.pending), most_scored, short_span)
            for slot, row in enumerate(whole, start=first)
        ]
        tokens = max(most - sum(len(piece.ids) for piece in pieces), most // SHARE_OF_PIECES)
        if self.rows.active and self.decoder.has_kernels:
            tokens = min(tokens, self.pace.tokens)
        positions = most_scored - sum(len(piece.targets) for piece in pieces)
        for slot, row in enumerate(reading, start=first + len(whole)):
            piece = next_piece(row, slot, tokens, positions, short_span)
            if piece.ids:
                pieces.append(piece)
            tokens, positions = tokens - len(piece.ids), positions - len(piece.targets)
            if not (piece.ids and piece.is_last and tokens):
                break  # the next long prompt begins when this one is done
        return pieces


def next_piece(row: Row, slot: int, tokens: int, logits: int, short_span: int) -> TokenSpan:
    """Return the next piece of a row's pending tokens, with at most `tokens` tokens and `logits`
    scored targets.

    Of an answer that was begun, the tokens are read in short spans after the prompt, which attend
    as in decoding; where no span is short, all are read together.
    """
    pending, start = row.pending, row.kv.places
    end = min(start + tokens, len(pending))
    if row.given is None:
        prompt = len(pending) - len(row.tokens)
        if row.tokens and 1 < short_span <= len(pending) - start:
            end = min(end, prompt if start < prompt else start + short_span - 1)
        return TokenSpan(row, slot, pending[start:end], start, is_last=end == len(pending))
    # the token that the continuation's first one follows
    scored_from = len(pending) - len(row.given)
    end = min(end, max(start, scored_from) + logits)
    targets = row.given[max(start - scored_from, 0) : max(end - scored_from, 0)]
    return TokenSpan(row, slot, pending[start:end], start, targets, end == len(pending))
