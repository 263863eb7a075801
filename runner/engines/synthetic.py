"""Made-up prompts of an exact length, for tasks that measure speed or memory and not what is said."""

from __future__ import annotations

import random

from runner.core.errors import ConfigError
from runner.engines.base import EngineReport, Request


def check_room(report: EngineReport, prompt_tokens: int, new_tokens: int) -> None:
    """Raise ConfigError unless the prompt and what follows it fit the loaded model's positions."""
    room = report.metrics["max_positions"]
    if prompt_tokens + new_tokens > room:
        raise ConfigError(
            f"task.prompt_tokens={prompt_tokens} and task.new_tokens={new_tokens} make "
            f"{prompt_tokens + new_tokens} tokens, the model has room for {room:.0f}: make one smaller"
        )


def synthetic_requests(
    batch_size: int, prompt_tokens: int, new_tokens: int, vocab_size: int, seed: int, draw: int = 0
) -> list[Request]:
    """Return a batch of random token-id prompts that all decode new_tokens, the same for the same arguments.

    `draw` gives other prompts of the same shape. Rows differ from their first token on, and so do draws as a
    rule: an engine that computes a shared prefix once would otherwise be measured at work it did not do.
    """
    low, high = _ordinary_ids(vocab_size)
    random_ids = random.Random(f"{seed}/{draw}/{batch_size}/{prompt_tokens}")
    firsts = _distinct(batch_size, low, high, random_ids)
    return [
        Request(
            id=row,
            prompt=(first, *(random_ids.randrange(low, high) for _ in range(prompt_tokens - 1))),
            max_new_tokens=new_tokens,
            ignore_eos=True,
        )
        for row, first in enumerate(firsts)
    ]


def _ordinary_ids(vocab_size: int) -> tuple[int, int]:
    """Return the middle half of the vocabulary: special tokens and padding rows lie at its two ends."""
    assert vocab_size >= 1
    low = vocab_size // 4
    return low, max(low + 1, vocab_size - low)


def _distinct(count: int, low: int, high: int, random_ids: random.Random) -> list[int]:
    """Draw ids without repeats, as far as there are enough of them."""
    ids: list[int] = []
    while len(ids) < count:
        ids += random_ids.sample(range(low, high), min(count - len(ids), high - low))
    return ids
