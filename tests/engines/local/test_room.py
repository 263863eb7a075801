"""The store is as large as rows need and as the budget allows, and grows with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.core.dtypes import Dtype
from runner.engines.base import Request
from runner.engines.local.engine import LocalEngine
from runner.engines.local.forward import Forward
from runner.engines.local.prefix_tree import ConversationCache, Prefixes
from runner.engines.local.room import Room
from runner.engines.rows import Row
from runner.engines.stats import EngineStats


def test_the_store_grows_with_what_is_there_and_not_beyond_the_budget(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> None:
    model = LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32)
    engine = LocalEngine(make_config(model=model))
    heads = engine.heads(engine._model())
    assert heads is not None
    forward, stats = Forward(engine._model().model, heads), EngineStats()
    room = Room(heads, stats, forward, Prefixes(forward, stats, ConversationCache()), asked_rows=6)
    rows = [Row(Request(number, ()), [1] * 40, "", 60) for number in range(8)]
    room.budget_tokens = 450
    assert [room._fits(rows[4], rows[:count]) for count in (3, 4)] == [True, False], "100 tokens each may come to need"
    room.waiting.extend(rows[1:])
    room._make_room(rows[:1])
    assert room.own is not None
    assert (room.own.slots, room.own.capacity) == (4, 112), "as many as the budget has room for, as long as they can be"
    room.budget_tokens = 10_000
    room._make_room(rows[:5])
    assert room.own.slots == 6, "not more than were asked for"
    room._say_short(3)
    room._say_short(3)
    assert len(stats.notes) == 1, "said once"
    engine.close()
