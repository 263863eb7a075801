"""What one pass reads: the prompts of rows that enter, and the next pieces of prompts that are too long for one pass.

While a long prompt is read piece by piece, active rows decode in the same passes, so that no row waits for it. With
attention in plain torch, which would copy their keys for that, they decode between these passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.checkpoints.pass_memory import PREFILL_TOKENS
from runner_engine.decode.forward import Forward, TokenSpan, most_positions, next_piece
from runner_engine.decode.prefix_tree import ConversationCache, Prefixes
from runner_engine.decode.prompt_cache import PromptCache
from runner_engine.decode.room import Room
from runner_engine.decode.rows import Row
from runner_engine.kv_cache.kv_cache import Heads
from runner_engine.memory.memory import MemoryGuard
from runner_engine.models.load import Loaded
from runner_engine.sessions.stats import EngineStats

MIN_PIECE = 64  # tokens of a prompt that one pass reads, even if memory is short
SHARE_OF_PIECES = 2  # one in so many tokens of a pass is for long prompts, while other rows could enter


class Entering(Room):
    """Decides which tokens of prompts the next pass reads."""

    def __init__(
        self,
        loaded: Loaded,
        heads: Heads,
        stats: EngineStats,
        asked_rows: int | None,
        conversations: ConversationCache,
        prompts: PromptCache,
    ) -> None:
        self.loaded, self.conversations, self.prompts = loaded, conversations, prompts
        forward = Forward(loaded.model, heads)
        super().__init__(heads, stats, forward, Prefixes(forward, stats, conversations), asked_rows)
        self.vocab_size = int(loaded.metrics["vocab_size"])
        self.most_positions = most_positions(heads.device, self.vocab_size)
        self.memory = MemoryGuard(loaded.model, heads.device)
        self.budget_s = 0.0  # when the free memory was measured from which the budget was computed

    def _update_budget(self) -> None:
        """Compute the budget again if free memory was measured since."""
        self.memory.look()
        if self.memory.looked_s != self.budget_s:
            self._set_budget()
            self.budget_s = self.memory.looked_s

    def _check_memory(self) -> None:
        """Raise MemoryError if the next token of each row may not fit; unused arenas are freed first."""
        try:
            self.memory.check(len(self.active))
        except MemoryError:
            if self.own is None or not self.own.keep_spare(0):
                raise
            self.memory.forget()
            self.memory.check(len(self.active))

    @property
    def short_span(self) -> int:
        """Of how many tokens a span is attended to by SDPA, and not token by token."""
        return self.forward.short_span

    def _joins_decoding(self, row: Row) -> bool:
        """Whether a row's prompt is read in a pass in which active rows decode: the kernels attend token by token."""
        return bool(self.active) and len(row.pending) < self.short_span

    def _most_tokens(self, decoding: int) -> int:
        """Return how many tokens of prompts the next pass may read besides one token of each decoding row."""
        most = self.memory.most_tokens(PREFILL_TOKENS.get(self.heads.device.type, PREFILL_TOKENS["cpu"]))
        return max(most - decoding, most // 4, MIN_PIECE)

    def _choose(self, entering: list[Row], free: int, most: int) -> list[Row]:
        """Move rows that enter now from `waiting` to `entering`; return those that are too long for one pass."""
        long: list[Row] = []
        tokens = positions = 0
        while self.waiting and len(entering) < free:
            row = self.waiting[0]
            whole = len(entering) - len(long)
            if whole and not (self.reading or long) and self._joins_decoding(row) != self._joins_decoding(entering[0]):
                break
            self.prompts.find(row)
            self.prefixes.find_copy(row)
            share = most - most // SHARE_OF_PIECES if self.reading or long else most
            left, wanted = len(row.pending) - row.copied, len(row.given or ())
            is_long = left > share or wanted > self.most_positions or (bool(row.tokens) and 1 < self.short_span <= left)
            if whole and not is_long and (tokens + left > share or positions + wanted > self.most_positions):
                break
            on_way = [*self.active, *self.reading, *entering]
            if on_way and not self._fits(row, on_way):
                self.full_at = len(on_way)
                self._note_shortage(len(on_way))
                break
            if not self.prefixes.compute(row, most):
                break
            entering.append(self.waiting.popleft())
            if is_long:
                long.append(row)
            else:
                tokens, positions = tokens + left, positions + wanted
        return long

    def _pieces(self, whole: Sequence[Row], reading: Sequence[Row], most: int) -> list[TokenSpan]:
        """Return what this pass reads: whole prompts, and in order as many pieces of long ones as fit."""
        first = len(self.active)
        pieces = [
            next_piece(row, slot, len(row.pending), self.most_positions, self.short_span)
            for slot, row in enumerate(whole, start=first)
        ]
        tokens = max(most - sum(len(piece.ids) for piece in pieces), most // SHARE_OF_PIECES)
        positions = self.most_positions - sum(len(piece.targets) for piece in pieces)
        for slot, row in enumerate(reading, start=first + len(whole)):
            piece = next_piece(row, slot, tokens, positions, self.short_span)
            if piece.ids:
                pieces.append(piece)
            tokens, positions = tokens - len(piece.ids), positions - len(piece.targets)
            if not (piece.ids and piece.is_last and tokens):
                break  # the next long prompt begins when this one is done
        return pieces
