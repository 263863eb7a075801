"""Rows enter while the budget has room for the sum of their needs, several of them in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opening import make_spec, open_engine

from runner_base.dtypes import Dtype
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenaStore
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.memory.peak_memory import PeakMemory
from runner_engine.sessions.base import Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def scheduler(saved_family: Callable[..., Path]) -> Iterator[Scheduler]:
    model = LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model))
    engine.load()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    stats, loaded = EngineStats(), engine.loaded
    peaks, stopping = PeakMemory(stats, loaded), Stopping(loaded.tokenizer)
    caches = engine.conversations, engine.prompts, engine.speculation
    yield Scheduler(
        loaded.model, heads, int(loaded.metrics["vocab_size"]), stats, peaks, stopping, 6, *caches
    )
    engine.close()


def rows_of(*needs: int) -> list[TokenSequence]:
    return [TokenSequence(Request(number, ()), [1] * 10, "", need - 10) for number, need in enumerate(needs)]


def make_room(scheduler: Scheduler, whole: list[TokenSequence]) -> None:
    scheduler.kv.allocate_kv_slots(scheduler.rows, whole, [], scheduler.admission.most_rows)


@pytest.mark.skipif(native.load_kernels() is None, reason="slots are all of one length")
def test_a_long_row_leaves_room_for_short_ones(scheduler: Scheduler) -> None:
    long, *short = rows_of(4000, *[100] * 8)
    scheduler.kv.tokens = 4400  # of which rows of 100 take whole blocks: 112 each
    assert [scheduler.kv.has_room_for(long, short[:count]) for count in (3, 4)] == [True, False]
    assert [scheduler.kv.has_room_for(short[-1], [long, *short[:count]]) for count in (2, 3)] == [True, False]
    make_room(scheduler, [long, *short[:3]])
    scheduler.rows.active = [long, *short[:3]]
    for row in scheduler.rows.active:
        row.kv.places = 20
    make_room(scheduler, short[3:5])
    assert isinstance(scheduler.kv.own, KvArenaStore)
    assert [arena.capacity for arena in scheduler.kv.own.arenas] == [4000, *[112] * 5]


def test_plain_torch_has_as_many_slots_as_the_budget_has_room_for(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.decoder.forward, "kernels", None)
    monkeypatch.setattr(scheduler.kv, "compute_kv_cost_tokens", SlotStore.count_required_positions)
    rows = rows_of(*[100] * 8)
    scheduler.kv.tokens = 450
    assert [scheduler.kv.has_room_for(rows[4], rows[:count]) for count in (3, 4)] == [True, False], (
        "100 tokens each may come to need"
    )
    scheduler.rows.waiting.extend(rows[1:])
    make_room(scheduler, rows[:1])
    assert isinstance(scheduler.kv.own, SlotStore)
    assert (scheduler.kv.own.slots, scheduler.kv.own.capacity) == (4, 112)
    scheduler.kv.tokens, scheduler.rows.active = 10_000, rows[:1]
    make_room(scheduler, rows[1:5])
    assert scheduler.kv.own.slots == 6, "not more than were asked for"


def test_rows_enter_several_at_once_where_others_wait_for_them(scheduler: Scheduler) -> None:
    scheduler.admission.most_rows = 64
    scheduler.rows.waiting.extend(rows_of(*[100] * 40))
    assert scheduler.admission.compute_max_sequences_to_admit(shares_decode_pass=False) == 40
    scheduler.rows.active = rows_of(*[100] * 57)
    assert [
        scheduler.admission.compute_max_sequences_to_admit(joins_decoding) for joins_decoding in (False, True)
    ] == [0, 7]
    scheduler.rows.active.pop()
    assert scheduler.admission.compute_max_sequences_to_admit(shares_decode_pass=False) == 8
    scheduler.admission.full_at = 56
    assert [
        scheduler.admission.compute_max_sequences_to_admit(joins_decoding) for joins_decoding in (False, True)
    ] == [0, 0], "the next one does not fit"
    scheduler.rows.active.pop()
    assert [
        scheduler.admission.compute_max_sequences_to_admit(joins_decoding) for joins_decoding in (False, True)
    ] == [0, 9]
    del scheduler.rows.active[49:]
    assert scheduler.admission.compute_max_sequences_to_admit(shares_decode_pass=False) == 15
    scheduler.rows.active.clear()
    assert scheduler.admission.compute_max_sequences_to_admit(shares_decode_pass=False) == 40, "nobody waits"


def test_who_asked_for_more_rows_is_told_once(scheduler: Scheduler) -> None:
    scheduler.admission._record_shortage(3)
    scheduler.admission._record_shortage(3)
    assert len(scheduler.stats.row_shortages) == 1
