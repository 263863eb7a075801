"""Log-probabilities of given continuations, from the logits of a pass, in pieces that memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from runner.core.result import FinishReason
from runner.engines.base import Completion
from runner.engines.local.forward import Forward, Piece
from runner.engines.local.kv_cache import OwnKv
from runner.engines.rows import Row

MOST_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # numbers that one pass may leave for scoring
AT_ONCE = 2**22  # of them, in float32 and as a logarithm


def score(row: Row, logits: torch.Tensor, targets: Sequence[int]) -> None:
    """Score the next tokens of a row's continuation by the logits [n, V] before each."""
    step = max(AT_ONCE // logits.shape[-1], 1)
    for first in range(0, len(targets), step):
        wanted = torch.tensor(targets[first : first + step], device=logits.device)
        scores = logits[first : first + step].float().log_softmax(dim=-1)
        row.logprobs += scores.gather(1, wanted[:, None])[:, 0].tolist()
        row.greedy += (scores.argmax(dim=-1) == wanted).tolist()


def scored(row: Row, seconds: float) -> Completion:
    """Return the answer to a request with a continuation."""
    row.tokens, row.first_token_s = row.given or [], seconds
    return row.completion(FinishReason.stop, seconds)


def most_positions(device: torch.device, vocab_size: int) -> int:
    """Return after how many tokens one pass may leave logits for scoring."""
    return max(MOST_LOGITS.get(device.type, 2**26) // max(vocab_size, 1), 1)


def read_entering(
    forward: Forward, own: OwnKv, rows: list[Row], given: list[Row], first_slot: int, most: int
) -> torch.Tensor:
    """Read rows that enter the slots from the first on, and score; return the logits [n, V] after the others' prompts.

    A continuation whose logits are too many for one pass goes through in several.
    """
    cut = [_pieces(row, slot, most) for slot, row in enumerate([*rows, *given], start=first_slot)]
    first: torch.Tensor | None = None
    for some in zip_longest(*cut):
        pieces = [piece for piece in some if piece is not None]
        logits = forward.read_prompts(own, pieces)
        if first is None:
            first, logits = logits[: len(rows)], logits[len(rows) :]
        for piece in pieces:
            if piece.targets:
                count = len(piece.targets)
                score(piece.row, logits[:count], piece.targets)
                logits = logits[count:]
    assert first is not None
    return first


def _pieces(row: Row, slot: int, most: int) -> list[Piece]:
    """Cut what is pending of a row that enters a slot: as a whole, or so that each piece leaves few enough logits."""
    pending = row.pending
    if row.given is None:
        return [Piece(row, slot, pending)]
    pieces = []
    start, end = 0, len(pending) - len(row.given) + most
    for first in range(0, len(row.given), most):
        targets = row.given[first : first + most]
        pieces.append(Piece(row, slot, pending[start:end], start, targets))
        start, end = end, end + most
    return pieces
