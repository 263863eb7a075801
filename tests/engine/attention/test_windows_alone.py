"""A row's attention to a shared prefix through a window has the same bits whatever rows are beside
it."""

from __future__ import annotations

import pytest
import torch

from runner_engine.attention.partial_attention import Scaling
from runner_engine.attention.shared_attention import SharedKeyRange, run_shared_key_attention_kernel
from runner_engine.kernels import native
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import SharedKv

KERNELS = native.load_kernels()
KEYS, DIM = 1300, 32
FIRSTS = [100, 333, 700, 1290]  # of the rows; blocks of keys have 512 places


@pytest.mark.skipif(KERNELS is None, reason="no C compiler is here, so nothing is called in C")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_other_windows_begin_changes_no_bit(dtype: torch.dtype) -> None:
    assert KERNELS is not None
    torch.manual_seed(0)
    heads = KvCacheSpec(1, 2, 2, DIM, dtype, torch.device("cpu"))
    shared = SharedKv.allocate(heads, KEYS, KERNELS)
    key, value = (torch.randn(KEYS, 2, DIM).to(dtype) for _ in range(2))
    shared.store.write(
        0, key, value, torch.zeros(KEYS, dtype=torch.int32), torch.arange(KEYS, dtype=torch.int32)
    )
    query = torch.randn(4, len(FIRSTS), DIM).to(dtype)

    def attended(rows: list[int]) -> list[torch.Tensor]:
        first = torch.tensor([FIRSTS[row] for row in rows], dtype=torch.int32)
        places = SharedKeyRange(shared.store, 0, KEYS, False)
        asked = query[:, rows].contiguous()
        parts = run_shared_key_attention_kernel(
            KERNELS, heads, Scaling(0.2, 0.0), 0, asked, None, len(rows), places, first
        )
        return [part.view(2, len(rows), 2, -1) for part in parts]

    together = attended([0, 1, 2, 3])
    for row in range(len(FIRSTS)):
        for alone, among in zip(attended([row]), together, strict=True):
            assert torch.equal(alone[:, 0], among[:, row])
