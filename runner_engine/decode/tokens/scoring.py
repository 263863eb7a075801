"""Log-probabilities of continuations, computed from the logits of prefill passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from runner_base import FinishReason
from runner_engine.decode.passes import Forward, TokenSpan
from runner_engine.decode.sequences import NO_NUMBERS, TokenSequence
from runner_engine.decode.tokens.tail_tokens import (
    draw_reproducible_random_numbers,
    draw_tokens_with_exclusions,
)
from runner_engine.kv_cache import KvStore
from runner_engine.sessions import Completion

MAX_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # numbers that one pass may return for scoring
AT_ONCE = 2**22  # of these, converted to float32 log-probabilities at once


def score_tokens(sequence: TokenSequence, logits: torch.Tensor, target_tokens: Sequence[int]) -> None:
    """Compute the log-probabilities of a continuation's next tokens, and store the results.

    logits: [n, V], one vector per target token.
    """
    step = max(AT_ONCE // logits.shape[-1], 1)
    for first in range(0, len(target_tokens), step):
        wanted = torch.tensor(target_tokens[first : first + step], device=logits.device)
        scores = logits[first : first + step].float().log_softmax(dim=-1)
        if sequence.request.on_logprobs is not None:
            sequence.request.on_logprobs(len(sequence.scores.logprobs), scores)
        if sequence.request.score_token_ids:
            some = sequence.request.score_token_ids[len(sequence.scores.logprobs) :][: len(wanted)]
            sequence.scores.score_token_logprobs += scores.gather(
                1, torch.tensor([list(ids) for ids in some], device=scores.device)
            ).tolist()
            sequence.scores.min_logprobs += scores.amin(dim=-1).tolist()
        sequence.scores.logprobs += scores.gather(1, wanted[:, None])[:, 0].tolist()
        sequence.scores.greedy += (scores.argmax(dim=-1) == wanted).tolist()
        if sequence.request.top_logprobs:
            best = scores.topk(min(sequence.request.top_logprobs, scores.shape[-1]), dim=-1)
            sequence.scores.top_logprobs += _pair_tokens_with_values(best.indices, best.values)
        if sequence.request.drawn_tokens and sequence.request.top_logprobs < scores.shape[-1]:
            uniform = draw_reproducible_random_numbers(
                sequence.request, len(sequence.scores.drawn_logprobs), len(wanted)
            ).to(scores.device)
            drawn = draw_tokens_with_exclusions(scores, best.indices, uniform)
            sequence.scores.drawn_logprobs += _pair_tokens_with_values(drawn, scores.gather(1, drawn))


def _pair_tokens_with_values(tokens: torch.Tensor, values: torch.Tensor) -> list[list[tuple[int, float]]]:
    return [list(zip(*both, strict=True)) for both in zip(tokens.tolist(), values.tolist(), strict=True)]


def build_scored_completion(sequence: TokenSequence, elapsed_s: float) -> Completion:
    sequence.tokens, sequence.first_token_s = sequence.given or [], elapsed_s
    if any(map(math.isnan, sequence.scores.logprobs)):
        sequence.error = NO_NUMBERS
        sequence.scores.clear()
    return sequence.to_completion(FinishReason.error if sequence.error else FinishReason.stop, elapsed_s)


def compute_max_scored_positions(device: torch.device, vocab_size: int) -> int:
    return max(MAX_LOGITS.get(device.type, 2**26) // max(vocab_size, 1), 1)


def prefill_and_score(forward: Forward, kv_store: KvStore, chunks: Sequence[TokenSpan]) -> torch.Tensor:
    """Prefill prompt chunks and score continuations in one forward pass.

    Returns logits [n, V] of completed prompts that are not scored.
    """
    logits = forward.run_token_spans(kv_store, chunks)
    first = 0
    others: list[int] = []
    for piece in chunks:
        if piece.targets:
            score_tokens(piece.row, logits[first : first + piece.num_logits], piece.targets)
        else:
            others += range(first, first + piece.num_logits)
        first += piece.num_logits
    return logits if len(others) == first else logits[others]
