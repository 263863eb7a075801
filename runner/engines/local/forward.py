"""Forward passes of the scheduler: flat lists of tokens, and what attention must know of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runner.engines.local.attention import Pass, Span, Use, running
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import Heads, OwnKv, SharedKv
from runner.engines.local.prefix_tree import Prefix
from runner.engines.rows import Row

SHORT_SPAN = 192  # tokens; with kernels, a shorter prompt is attended to token by token, as in decoding


@dataclass
class Piece:
    """Neighbouring tokens of a row that enters, with the tokens whose logits are wanted: its last, or the targets'."""

    row: Row
    slot: int
    ids: list[int]
    before: int = 0  # own places filled by earlier pieces
    targets: list[int] = field(default_factory=list)  # what follows each of its last tokens, for scoring


class Forward:
    """Sends tokens through a model: a prefix, the own prompts of rows that enter, or one token a row."""

    def __init__(self, model: Any, heads: Heads) -> None:
        self.model, self.heads, self.kernels = model, heads, native.for_heads(heads)
        self.short_span = SHORT_SPAN if self.kernels else 1

    def read_prefix(self, prefix: Prefix) -> None:
        """Compute keys and values of a prefix, which stands on those above it."""
        count = len(prefix.tokens)
        into = SharedKv.empty(self.heads, count, self.kernels)
        everyone, nobody = list(range(count)), self._ints([0] * count)
        uses = [self._use(one, everyone, count) for one in (prefix.parent.path if prefix.parent else [])]
        what = Pass(self.heads, self.kernels, into.store, nobody, self._ints(everyone), nobody, uses, [Span(0, count)])
        start = prefix.length - count
        self._forward(what, prefix.tokens, [start + at for at in everyone], [count - 1])
        prefix.kv = into

    def read_prompts(self, own: OwnKv, pieces: Sequence[Piece]) -> torch.Tensor:
        """Read pieces of rows that enter, each into its slot; return the logits [n, V] that they want, in order."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        seen: list[int] = []
        of_row: list[int] = []
        kept: list[int] = []
        spans = []
        for number, piece in enumerate(pieces):
            first, count, before = len(ids), len(piece.ids), piece.before
            is_long = count >= self.short_span
            if is_long:
                spans.append(Span(first, first + count, piece.slot, before))
            ids += piece.ids
            start = piece.row.shared + before
            positions += range(start, start + count)
            slots += [piece.slot] * count
            places += range(before, before + count)
            seen += [0] * count if is_long else range(before + 1, before + count + 1)
            of_row += [number] * count
            kept += range(len(ids) - max(len(piece.targets), 1), len(ids))
        uses = []
        entering = [piece.row for piece in pieces]
        for prefix in _prefixes(entering):
            there = [prefix in row.path for row in entering]
            uses.append(self._use(prefix, [at for at, number in enumerate(of_row) if there[number]], len(ids)))
        kinds = (self._ints(slots), self._ints(places), self._ints(seen))
        return self._forward(Pass(self.heads, self.kernels, own, *kinds, uses, spans), ids, positions, kept)

    def uses_of(self, rows: Sequence[Row]) -> list[Use]:
        """Return the prefixes that rows stand on, one token each; they serve until the rows change."""
        return [
            self._use(prefix, [at for at, row in enumerate(rows) if prefix in row.path], len(rows))
            for prefix in _prefixes(rows)
        ]

    def step(self, own: OwnKv, rows: Sequence[Row], uses: list[Use]) -> torch.Tensor:
        """Send the last token of each row, which lie in the slots 0 … n-1; return the logits [n, V]."""
        places = [row.places for row in rows]
        kinds = (self._ints(range(len(rows))), self._ints(places), self._ints([place + 1 for place in places]))
        ids = [row.tokens[-1] for row in rows]
        positions = [len(row.prompt) + len(row.tokens) - 1 for row in rows]
        return self._forward(Pass(self.heads, self.kernels, own, *kinds, uses, is_step=True), ids, positions, None)

    def _use(self, prefix: Prefix, rows: list[int], tokens: int) -> Use:
        everyone = len(rows) == tokens
        row_of = [-1] * tokens
        for number, at in enumerate(rows):
            row_of[at] = number
        chosen = None if everyone else torch.tensor(rows, device=self.heads.device)
        return Use(prefix.kv, chosen, self._ints(row_of), len(rows))

    def _ints(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.heads.device)

    def _forward(self, what: Pass, ids: list[int], positions: list[int], keep: list[int] | None) -> torch.Tensor:
        """Return the logits [n, V] after the tokens to keep, or after all."""
        device = self.heads.device
        with torch.inference_mode(), running(self.model, what.attend):
            output = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=0 if keep is None else torch.tensor(keep, device=device),
            )
        logits: torch.Tensor = output.logits[0]
        return logits


def _prefixes(rows: Sequence[Row]) -> list[Prefix]:
    """The prefixes that these rows stand on, each once."""
    return list(dict.fromkeys(prefix for row in rows for prefix in row.path))
