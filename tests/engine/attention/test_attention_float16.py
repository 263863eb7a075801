"""Attention in float16, which ends at 65,504: what it adds up on the way is larger."""

from __future__ import annotations

import pytest
import torch

from runner_engine.attention.attention import PassLayout, PrefixUse, Span
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import SharedKv, create_kv_store

HEADS = KvCacheSpec(1, 2, 2, 64, torch.float16, torch.device("cpu"))
TOKENS, LENGTH, SCALE = 3, 600, 64**-0.5


def ints(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize("is_span", [False, True], ids=["rows", "span"])
def test_neither_scores_nor_sums_of_values_overflow(is_span: bool) -> None:
    """Products of queries and keys before they are scaled, and sums of values before they are
    divided, are larger."""
    numbers = torch.Generator().manual_seed(0)

    def around(mean: float, *shape: int) -> torch.Tensor:
        return (torch.randn(*shape, 64, generator=numbers) * 0.5 + mean).half()

    keys, values, query = around(40, 2, LENGTH), around(500, 2, LENGTH), around(40, 4, TOKENS)
    new_keys, new_values = around(40, 2, TOKENS), around(500, 2, TOKENS)
    prefix = SharedKv.allocate(HEADS, LENGTH, None)
    prefix.store.write_stored(0, keys, values)
    uses = [PrefixUse(prefix, None, ints([0, 1, 2]), TOKENS)]
    if is_span:  # one row, whose tokens see those before them
        what = PassLayout(
            HEADS,
            None,
            create_kv_store(HEADS, None, [16]),
            ints([0] * 3),
            ints([0, 1, 2]),
            ints([0] * 3),
            uses,
        )
        what.spans = [Span(0, TOKENS)]
    else:  # three rows, whose tokens see themselves
        what = PassLayout(
            HEADS,
            None,
            create_kv_store(HEADS, None, [16] * 3),
            ints([0, 1, 2]),
            ints([0] * 3),
            ints([1] * 3),
            uses,
        )
    result = what.attend(0, query, new_keys, new_values, SCALE)
    for token in range(TOKENS):
        own = slice(0 if is_span else token, token + 1)
        seen = torch.cat([keys, new_keys[:, own]], dim=1).double().repeat_interleave(2, dim=0)
        scores = (query[:, token].double()[:, None] * seen).sum(dim=-1)
        assert float(scores.max()) > 65_504
        weighed = torch.cat([values, new_values[:, own]], dim=1).double().repeat_interleave(2, dim=0)
        expected = ((scores * SCALE).softmax(dim=-1)[..., None] * weighed).sum(dim=1)
        assert float((result[token].double() - expected).abs().max()) < 1, "of values of about 500"
