"""Rows enter while the budget has room for the sum of their needs, several of them in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opening import local_engine

from runner.config.root import RunnerConfig
from runner_base.dtypes import Dtype
from runner_engine.decode.forward import Forward
from runner_engine.decode.prefix_tree import ConversationCache, Prefixes
from runner_engine.decode.room import Room
from runner_engine.decode.rows import Row
from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenas
from runner_engine.kv_cache.slots import Slots
from runner_engine.sessions.base import Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def room(make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]) -> Iterator[Room]:
    model = LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32)
    engine = local_engine(make_config(model=model))
    engine.load()
    heads = engine.heads(engine.loaded)
    assert heads is not None
    forward, stats = Forward(engine.loaded.model, heads), EngineStats()
    yield Room(heads, stats, forward, Prefixes(forward, stats, ConversationCache()), asked_rows=6)
    engine.close()


def rows_of(*needs: int) -> list[Row]:
    return [Row(Request(number, ()), [1] * 10, "", need - 10) for number, need in enumerate(needs)]


@pytest.mark.skipif(native.kernels() is None, reason="slots are all of one length")
def test_a_long_row_leaves_room_for_short_ones(room: Room) -> None:
    long, *short = rows_of(4000, *[100] * 8)
    room.budget_tokens = 4400  # of which rows of 100 take whole blocks: 112 each
    assert [room._fits(long, short[:count]) for count in (3, 4)] == [True, False]
    assert [room._fits(short[-1], [long, *short[:count]]) for count in (2, 3)] == [True, False]
    room._make_room([long, *short[:3]], [])
    room.active = [long, *short[:3]]
    for row in room.active:
        row.places = 20
    room._make_room(short[3:5], [])
    assert isinstance(room.own, KvArenas)
    assert [arena.capacity for arena in room.own.arenas] == [4000, *[112] * 5]


def test_plain_torch_has_as_many_slots_as_the_budget_has_room_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.forward, "kernels", None)
    monkeypatch.setattr(room, "_cost", Slots.cost)
    rows = rows_of(*[100] * 8)
    room.budget_tokens = 450
    assert [room._fits(rows[4], rows[:count]) for count in (3, 4)] == [True, False], "100 tokens each may come to need"
    room.waiting.extend(rows[1:])
    room._make_room(rows[:1], [])
    assert isinstance(room.own, Slots)
    assert (room.own.slots, room.own.capacity) == (4, 112)
    room.budget_tokens, room.active = 10_000, rows[:1]
    room._make_room(rows[1:5], [])
    assert room.own.slots == 6, "not more than were asked for"


def test_rows_enter_several_at_once_where_others_wait_for_them(room: Room) -> None:
    room.most_rows = 64
    room.waiting.extend(rows_of(*[100] * 40))
    assert room._may_enter(joins_decoding=False) == 40
    room.active = rows_of(*[100] * 57)
    assert [room._may_enter(joins_decoding) for joins_decoding in (False, True)] == [0, 7]
    room.active.pop()
    assert room._may_enter(joins_decoding=False) == 8
    room.full_at = 56
    assert [room._may_enter(joins_decoding) for joins_decoding in (False, True)] == [0, 0], "the next one does not fit"
    room.active.pop()
    assert [room._may_enter(joins_decoding) for joins_decoding in (False, True)] == [0, 9]
    del room.active[49:]
    assert room._may_enter(joins_decoding=False) == 15
    room.active.clear()
    assert room._may_enter(joins_decoding=False) == 40, "nobody waits"


def test_who_asked_for_more_rows_is_told_once(room: Room) -> None:
    room._note_shortage(3)
    room._note_shortage(3)
    assert len(room.stats.notes) == 1
