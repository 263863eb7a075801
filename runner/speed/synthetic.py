"""Random prompts of an exact length, for tasks that measure speed or memory."""

from __future__ import annotations

import random
from math import inf

from runner_base import ConfigError
from runner_engine import EngineReport, Request

VOCABULARY = 800  # almost every model has these ids; used if a server does not report its vocabulary


def context_length_of_report(report: EngineReport) -> float:
    """Return the context length of the loaded model. Infinity for a server that does not report it."""
    return report.metrics.get("max_positions", inf)


def check_context_length(max_tokens: float, prompt_tokens: int, new_tokens: int, hint: str = "") -> None:
    """Raise ConfigError unless prompt and new tokens together fit the context length.

    hint: how the model can read more, as the end of the message.
    """
    if prompt_tokens + new_tokens > max_tokens:
        raise ConfigError(
            (
                f"task.prompt_tokens={prompt_tokens} and task.new_tokens={new_tokens} need "
                f"{prompt_tokens + new_tokens} tokens, but the model's limit is {max_tokens:.0f}. "
                f"Lower task.prompt_tokens or task.new_tokens{hint}"
            ),
            code="too_large",
        )


def create_random_requests(
    batch_size: int,
    prompt_tokens: int,
    new_tokens: int,
    vocab_size: int,
    seed: int,
    variant: int = 0,
    shared_prefix_tokens: int = 0,
) -> list[Request]:
    """Return a batch of random prompts, which depends only on the arguments.

    Another `variant` gives other prompts of the same shape. Sequences, and usually variants,
    differ from their first token on: otherwise an engine that computes a shared prefix once would
    do less work than is measured. The first `shared_prefix_tokens` tokens are the same in all
    sequences of a batch.
    """
    assert vocab_size >= 1
    # the middle half, since special tokens and padding rows are at the ends of the vocabulary
    low = vocab_size // 4
    high = max(low + 1, vocab_size - low)
    random_ids = random.Random(f"{seed}/{variant}/{batch_size}/{prompt_tokens}")
    firsts: list[int] = []
    while len(firsts) < batch_size:  # without repetition, if there are enough ids
        firsts += random_ids.sample(range(low, high), min(batch_size - len(firsts), high - low))
    shared_ids = random.Random(f"{seed}/{variant}/{prompt_tokens}/shared")
    shared = [shared_ids.randrange(low, high) for _ in range(min(shared_prefix_tokens, prompt_tokens))]
    return [
        Request(
            id=row,
            prompt=(*shared, first, *(random_ids.randrange(low, high) for _ in range(prompt_tokens - 1)))[
                :prompt_tokens
            ],
            max_new_tokens=new_tokens,
            ignore_eos=True,
            timed=True,
        )
        for row, first in enumerate(firsts)
    ]
