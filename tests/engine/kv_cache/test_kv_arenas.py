"""KV arenas of rows that have left serve others; what a store keeps is tested beside the attention
over it."""

from __future__ import annotations

import pytest
import torch

from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenas
from runner_engine.kv_cache.kv_cache import Heads
from runner_engine.kv_cache.shared_kv import own_kv


@pytest.mark.skipif(native.kernels() is None, reason="no C compiler is here")
def test_an_arena_serves_the_next_row_like_the_one_that_left() -> None:
    heads, kernels = Heads(1, 1, 1, 16, torch.float32, torch.device("cpu")), native.kernels()
    own = own_kv(heads, kernels, [100, 30, 5000])
    assert isinstance(own, KvArenas)
    hundred, thirty, long = own.arenas
    for slot, places in enumerate((100, 30, 900)):
        own.fill(slot, places)
    assert own.held == 1030, "places that were written, whatever a row may come to need"
    for active in (3, 2, 1):
        own.leave(0, active, is_sound=active != 2)
    assert own.held == 130, "a row without numbers has left its own behind in its arena: nobody gets it"
    own.enter(0, 3, [20, 90, 100], [1, 1, 1], 3)
    assert own.arenas[:2] == [thirty, hundred], "the smallest that is large enough"
    assert own.arenas[2] is not long
    assert own.arenas[2].capacity == 112
    own.leave(0, 3)
    own.keep_spare(29)
    assert own.held == 100
