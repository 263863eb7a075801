"""Forward passes of the scheduler: flat lists of tokens, what attention must know of each, and what they score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from runner.core.result import FinishReason
from runner.engines.base import Completion
from runner.engines.local.attention import Pass, Span, Use
from runner.engines.local.interface import running
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import Heads, OwnKv
from runner.engines.local.prefix_tree import Prefix
from runner.engines.local.shared_kv import SharedKv
from runner.engines.local.whole_pass import WholePass
from runner.engines.rows import NO_NUMBERS, Row

SHORT_SPAN = 192  # tokens; with kernels, a shorter prompt is attended to token by token, as in decoding
MOST_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # numbers that one pass may leave for scoring
AT_ONCE = 2**22  # of them, in float32 and as a logarithm


@dataclass
class Piece:
    """Neighbouring tokens of a row that enters, with the tokens whose logits are wanted: its last, or the targets'."""

    row: Row
    slot: int
    ids: list[int]
    before: int = 0  # own places filled by earlier pieces
    targets: list[int] = field(default_factory=list)  # what follows each of its last tokens, for scoring


class Before:
    """Stands in for a KV cache where a model counts what lies before a pass (Llama 4): as much for each token."""

    def __init__(self, positions: list[int], device: torch.device) -> None:
        self.counts = torch.tensor(positions, device=device) - torch.arange(len(positions), device=device)

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:  # the cache's own names
        """Return what is to be added to a token's place in the pass for its position."""
        return self.counts

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep nothing: attention does."""
        return key, value


class Forward:
    """Sends tokens through a model: a prefix, the own prompts of rows that enter, or one token a row."""

    def __init__(self, model: Any, heads: Heads) -> None:
        self.model, self.heads, self.kernels = model, heads, native.for_heads(heads)
        self.short_span = SHORT_SPAN if self.kernels else 1
        self.counts_before = bool(getattr(model.config.get_text_config(), "attn_temperature_tuning", None))
        self.whole: WholePass | None = None  # does it in a single call where it can
        self.most_tokens = self.most_logits = 0  # of one pass so far: tokens read, and logits left

    def read_prefix(self, prefix: Prefix) -> None:
        """Compute keys and values of a prefix, which stands on those above it."""
        count = len(prefix.tokens)
        into = SharedKv.empty(self.heads, count, self.kernels)
        zeros, places = self._ints([0] * count), self._ints(range(count))
        uses = self._uses([prefix.path[:-1]], [0] * count)
        what = Pass(self.heads, self.kernels, into.store, zeros, places, zeros, uses, [Span(0, count)])
        self._forward(what, prefix.tokens, list(range(prefix.start, prefix.length)), [count - 1])
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
        uses = self._uses([piece.row.path for piece in pieces], of_row)
        kinds = (self._ints(slots), self._ints(places), self._ints(seen))
        return self._forward(Pass(self.heads, self.kernels, own, *kinds, uses, spans), ids, positions, kept)

    def uses_of(self, rows: Sequence[Row]) -> list[Use]:
        """Return the prefixes that rows stand on, one token each; they serve until the rows change."""
        return self._uses([row.path for row in rows], range(len(rows)))

    def step(self, own: OwnKv, rows: Sequence[Row], uses: list[Use]) -> torch.Tensor:
        """Send the last token of each row, which lie in the slots 0 … n-1; return the logits [n, V]."""
        places = [row.places for row in rows]
        kinds = (self._ints(range(len(rows))), self._ints(places), self._ints([place + 1 for place in places]))
        ids = [row.tokens[-1] for row in rows]
        positions = [len(row.prompt) + len(row.tokens) - 1 for row in rows]
        return self._forward(Pass(self.heads, self.kernels, own, *kinds, uses, is_step=True), ids, positions, None)

    def _uses(self, paths: Sequence[list[Prefix]], of_path: Sequence[int]) -> list[Use]:
        """Return the prefixes on these paths, each once, for tokens of which each stands on one of the paths."""
        uses = []
        for prefix in dict.fromkeys(prefix for path in paths for prefix in path):
            there = [prefix in path for path in paths]
            seen_by = [at for at, number in enumerate(of_path) if there[number]]
            row_of = [-1] * len(of_path)
            for number, at in enumerate(seen_by):
                row_of[at] = number
            chosen = None if len(seen_by) == len(of_path) else torch.tensor(seen_by, device=self.heads.device)
            uses.append(Use(prefix.kv, chosen, self._ints(row_of), len(seen_by), prefix.start))
        return uses

    def _ints(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.heads.device)

    def _forward(self, what: Pass, ids: list[int], positions: list[int], keep: list[int] | None) -> torch.Tensor:
        """Return the logits [n, V] after the tokens to keep, or after all."""
        self.most_tokens = max(self.most_tokens, len(ids))
        self.most_logits = max(self.most_logits, len(ids if keep is None else keep))
        if self.whole is not None and self.whole.fits(what, positions):
            return self.whole(what, ids, positions, keep)
        device, what.positions = self.heads.device, positions
        before = {"past_key_values": Before(positions, device)} if self.counts_before else {}
        with torch.inference_mode(), running(self.model, what.attend):
            output = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=0 if keep is None else torch.tensor(keep, device=device),
                **before,
            )
        logits: torch.Tensor = output.logits[0]
        if keep is not None and len(logits) != len(
            keep
        ):  # a model that does not know the key hands it on, and gives all
            logits = logits[keep]
        return logits


# ------------------------------------------------------------------------------------------------ scoring


def score(row: Row, logits: torch.Tensor, targets: Sequence[int]) -> None:
    """Score the next tokens of a row's continuation by the logits [n, V] before each."""
    step = max(AT_ONCE // logits.shape[-1], 1)
    for first in range(0, len(targets), step):
        wanted = torch.tensor(targets[first : first + step], device=logits.device)
        scores = logits[first : first + step].float().log_softmax(dim=-1)
        row.logprobs += scores.gather(1, wanted[:, None])[:, 0].tolist()
        row.greedy += (scores.argmax(dim=-1) == wanted).tolist()
        if row.request.top:
            best = scores.topk(min(row.request.top, scores.shape[-1]), dim=-1)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            row.top += [list(zip(tokens, values, strict=True)) for tokens, values in pairs]


def scored(row: Row, seconds: float) -> Completion:
    """Return the answer to a request with a continuation."""
    row.tokens, row.first_token_s = row.given or [], seconds
    if any(map(math.isnan, row.logprobs)):
        row.error = NO_NUMBERS
        row.unscore()
    return row.completion(FinishReason.error if row.error else FinishReason.stop, seconds)


def most_positions(device: torch.device, vocab_size: int) -> int:
    """Return after how many tokens one pass may leave logits for scoring."""
    return max(MOST_LOGITS.get(device.type, 2**26) // max(vocab_size, 1), 1)


def read_entering(
    forward: Forward, own: OwnKv, going: list[Row], rows: list[Row], given: list[Row], first_slot: int, most: int
) -> torch.Tensor:
    """Read rows that enter the slots from the first on, and score; return the logits [n, V] of rows that decode.

    Those on their way that go along take their next step: their logits come first, then those after the prompts. A
    continuation whose logits are too many for one pass goes through in several.
    """
    cut = [[Piece(row, slot, row.tokens[-1:], row.places)] for slot, row in enumerate(going)]
    cut += [_pieces(row, slot, most) for slot, row in enumerate([*rows, *given], start=first_slot)]
    first: torch.Tensor | None = None
    for some in zip_longest(*cut):
        pieces = [piece for piece in some if piece is not None]
        logits = forward.read_prompts(own, pieces)
        if first is None:
            count = len(going) + len(rows)
            first, logits = logits[:count], logits[count:]
        for piece in pieces:
            if piece.targets:
                count = len(piece.targets)
                score(piece.row, logits[:count], piece.targets)
                logits = logits[count:]
    assert first is not None
    return first


def _pieces(row: Row, slot: int, most: int) -> list[Piece]:
    """Cut what is pending of a row that enters a slot: all but what it has copies of, or for few enough logits each."""
    pending = row.pending
    if row.given is None:
        return [Piece(row, slot, pending[row.copied :], row.copied)]
    pieces = []
    start, end = 0, len(pending) - len(row.given) + most
    for first in range(0, len(row.given), most):
        targets = row.given[first : first + most]
        pieces.append(Piece(row, slot, pending[start:end], start, targets))
        start, end = end, end + most
    return pieces
