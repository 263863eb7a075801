"""What one pass reads: the prompts of rows that enter, and the next pieces of prompts that are too long for one pass.

A long prompt is read in passes in which rows that are on their way take their next step, so that nobody waits for it.
Where plain torch attends, which would copy their keys for that, they take it between these passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.checkpoints.pass_memory import PREFILL_TOKENS
from runner.engines.local.forward import Forward, TokenSpan, most_positions, next_piece
from runner.engines.local.kv_cache import Heads
from runner.engines.local.memory import MemoryGuard
from runner.engines.local.prefix_tree import ConversationCache, Prefixes
from runner.engines.local.prompt_cache import PromptCache
from runner.engines.local.room import Room
from runner.engines.rows import Row
from runner.engines.stats import EngineStats
from runner.models.load import Loaded

LEAST_PIECE = 64  # tokens of a prompt that one pass reads however little memory there is
SHARE_OF_PIECES = 2  # of a pass is for long prompts, while others could enter


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
        self.budget_s = 0.0  # when the memory was looked at that the budget is a share of

    def _look(self) -> None:
        """Set the budget by the memory that there is now, if it was looked at since."""
        self.memory.look()
        if self.memory.looked_s != self.budget_s:
            self._set_budget()
            self.budget_s = self.memory.looked_s

    def _goes_along(self, row: Row) -> bool:
        """Whether a row is read in a pass in which the others decode: kernels attend token by token."""
        return bool(self.active) and len(row.pending) < self.forward.short_span

    def _most_tokens(self, going: int) -> int:
        """Return how many tokens of prompts the next pass may read beside those of rows that go along."""
        most = self.memory.most_tokens(PREFILL_TOKENS.get(self.heads.device.type, PREFILL_TOKENS["cpu"]))
        return max(most - going, most // 4, LEAST_PIECE)

    def _choose(self, entering: list[Row], free: int, most: int) -> list[Row]:
        """Move rows that enter in this pass from those that wait; return those that are too long to be read in it."""
        long: list[Row] = []
        tokens = positions = 0
        while self.waiting and len(entering) < free:
            row = self.waiting[0]
            whole = len(entering) - len(long)
            if whole and not (self.reading or long) and self._goes_along(row) != self._goes_along(entering[0]):
                break
            self.prompts.find(row)
            share = most - most // SHARE_OF_PIECES if self.reading or long else most
            left, wanted = len(row.pending) - row.copied, len(row.given or ())
            is_long = left > share or wanted > self.most_positions
            if whole and not is_long and (tokens + left > share or positions + wanted > self.most_positions):
                break
            on_way = [*self.active, *self.reading, *entering]
            if on_way and not self._fits(row, on_way):
                self.full_at = len(on_way)
                self._say_short(len(on_way))
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
        """Cut what this pass reads: rows that are read whole, and of the others the first, as far as there is room."""
        first = len(self.active)
        pieces = [
            next_piece(row, slot, len(row.pending), self.most_positions) for slot, row in enumerate(whole, start=first)
        ]
        tokens = max(most - sum(len(piece.ids) for piece in pieces), most // SHARE_OF_PIECES)
        positions = self.most_positions - sum(len(piece.targets) for piece in pieces)
        for slot, row in enumerate(reading, start=first + len(whole)):
            piece = next_piece(row, slot, tokens, positions)
            if piece.ids:
                pieces.append(piece)
            tokens, positions = tokens - len(piece.ids), positions - len(piece.targets)
            if not (piece.ids and piece.is_last and tokens):
                break  # the next one begins when this one is done
        return pieces
