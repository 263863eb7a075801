"""The log-probabilities of continuations, read off the logits of the passes that read their
prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from runner_base import FinishReason
from runner_engine.decode.passes import Forward, TokenSpan
from runner_engine.decode.rows import NO_NUMBERS, Row
from runner_engine.decode.tokens.other_tokens import draw_others, numbers
from runner_engine.kv_cache import OwnKv
from runner_engine.sessions import Completion

MAX_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # numbers that one pass may return for scoring
AT_ONCE = 2**22  # of these, converted to float32 log-probabilities at once


def score(row: Row, logits: torch.Tensor, targets: Sequence[int]) -> None:
    """Score the next tokens of a row's continuation by the logits [n, V] before each."""
    step = max(AT_ONCE // logits.shape[-1], 1)
    for first in range(0, len(targets), step):
        wanted = torch.tensor(targets[first : first + step], device=logits.device)
        scores = logits[first : first + step].float().log_softmax(dim=-1)
        if row.request.on_logprobs is not None:
            row.request.on_logprobs(len(row.scores.logprobs), scores)
        if row.request.score_token_ids:
            some = row.request.score_token_ids[len(row.scores.logprobs) :][: len(wanted)]
            row.scores.score_token_logprobs += scores.gather(
                1, torch.tensor([list(ids) for ids in some], device=scores.device)
            ).tolist()
            row.scores.min_logprobs += scores.amin(dim=-1).tolist()
        row.scores.logprobs += scores.gather(1, wanted[:, None])[:, 0].tolist()
        row.scores.greedy += (scores.argmax(dim=-1) == wanted).tolist()
        if row.request.top_logprobs:
            best = scores.topk(min(row.request.top_logprobs, scores.shape[-1]), dim=-1)
            row.scores.top_logprobs += _pairs(best.indices, best.values)
        if row.request.drawn_tokens and row.request.top_logprobs < scores.shape[-1]:
            uniform = numbers(row.request, len(row.scores.drawn_logprobs), len(wanted)).to(scores.device)
            drawn = draw_others(scores, best.indices, uniform)
            row.scores.drawn_logprobs += _pairs(drawn, scores.gather(1, drawn))


def _pairs(tokens: torch.Tensor, values: torch.Tensor) -> list[list[tuple[int, float]]]:
    """Return the tokens of each position, each with its value."""
    return [list(zip(*both, strict=True)) for both in zip(tokens.tolist(), values.tolist(), strict=True)]


def scored(row: Row, seconds: float) -> Completion:
    """Return the answer to a request with a continuation."""
    row.tokens, row.first_token_s = row.given or [], seconds
    if any(map(math.isnan, row.scores.logprobs)):
        row.error = NO_NUMBERS
        row.scores.clear()
    return row.completion(FinishReason.error if row.error else FinishReason.stop, seconds)


def most_positions(device: torch.device, vocab_size: int) -> int:
    """Return how many rows of logits one pass may return for scoring."""
    return max(MAX_LOGITS.get(device.type, 2**26) // max(vocab_size, 1), 1)


def read_and_score(forward: Forward, own: OwnKv, pieces: Sequence[TokenSpan]) -> torch.Tensor:
    """Read pieces in one pass and score continuations; return the logits [n, V] of other prompts
    that end here."""
    logits = forward.read_prompts(own, pieces)
    first = 0
    others: list[int] = []
    for piece in pieces:
        if piece.targets:
            score(piece.row, logits[first : first + piece.wanted], piece.targets)
        else:
            others += range(first, first + piece.wanted)
        first += piece.wanted
    return logits if len(others) == first else logits[others]
