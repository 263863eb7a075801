"""KV arenas of rows that have left serve others; what a store keeps is tested beside the attention
over it."""

from __future__ import annotations

import pytest
import torch

from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenaStore
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import create_kv_store


@pytest.mark.skipif(native.load_kernels() is None, reason="no C compiler is here")
def test_an_arena_serves_the_next_row_like_the_one_that_left() -> None:
    heads, kernels = KvCacheSpec(1, 1, 1, 16, torch.float32, torch.device("cpu")), native.load_kernels()
    own = create_kv_store(heads, kernels, [100, 30, 5000])
    assert isinstance(own, KvArenaStore)
    hundred, thirty, long = own.arenas
    for slot, places in enumerate((100, 30, 900)):
        own.set_num_filled(slot, places)
    assert own.resident_tokens == 1030, "places that were written, whatever a row may come to need"
    for active in (3, 2, 1):
        own.remove_slot(0, active, has_no_nan=active != 2)
    assert own.resident_tokens == 130, (
        "a row without numbers has left its own behind in its arena: nobody gets it"
    )
    own.insert_slots(0, 3, [20, 90, 100], [1, 1, 1], 3)
    assert own.arenas[:2] == [thirty, hundred], "the smallest that is large enough"
    assert own.arenas[2] is not long
    assert own.arenas[2].capacity == 112
    own.remove_slot(0, 3)
    own.free_unused(29)
    assert own.resident_tokens == 100
