"""Rows in pages: whatever enters, leaves, grows and is shared, a row's table leads to its keys in order."""

from __future__ import annotations

import random
from dataclasses import replace
from operator import add
from typing import Any

import pytest
import torch
from operations import Operations

from runner_engine.attention import device_attention, page_trial
from runner_engine.attention.page_trial import find_kv_page_size
from runner_engine.decode.passes.device_step import POSITION, StepAttention
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.shared_kv import SharedKv, compute_kv_store_size_tokens, create_kv_store
from runner_engine.kv_cache.sliding_windows import Window

PAGE = 16
HEADS = KvCacheSpec(2, 2, 2, 8, torch.float32, torch.device("cpu"), by_sdpa=True, page=PAGE)


def keys_of(layer: int, numbers: list[int]) -> torch.Tensor:
    """Return keys [KVH, n, D] that tell their number, head, layer and width."""
    at = [torch.arange(size, dtype=torch.float32) for size in (HEADS.kv_heads, HEADS.dim)]
    return torch.tensor(numbers, dtype=torch.float32)[None, :, None] * 100 + (
        10 * layer + 5 * at[0][:, None, None] + at[1] / 10
    )


def prefix_of(numbers: list[int], parent: Prefix | None = None) -> Prefix:
    prefix = Prefix(numbers, parent)
    prefix.kv = SharedKv.allocate(HEADS, len(numbers), None)
    for layer in range(HEADS.layers):
        keys = keys_of(layer, numbers)
        prefix.kv.store.write_stored(layer, keys, -keys)
    return prefix


class Rows:
    """The rows of a store, with what each should have."""

    def __init__(self) -> None:
        self.own = PagedSlots(HEADS)
        self.prefixes: list[Prefix | None] = []
        self.numbers: list[list[int]] = []  # of each row's own places

    def enter(self, at: int, prefix: Prefix | None, count: int) -> None:
        self.prefixes[at:at] = [prefix] * count
        self.numbers[at:at] = [[] for _ in range(count)]
        needs = [40 + (one.length % PAGE if one else 0) for one in self.prefixes]
        self.own.insert_slots(at, count, needs, needs, len(needs))
        self.own.initialize_kv_slots_from_prefix(at, count, prefix)

    def write(self, slot: int, numbers: list[int]) -> None:
        before = len(self.numbers[slot])
        self.numbers[slot] += numbers
        self.own.ensure_capacity(len(self.numbers[slot]), 200)
        places = torch.arange(before, len(self.numbers[slot]), dtype=torch.int32)
        for layer in range(HEADS.layers):
            keys = keys_of(layer, numbers).transpose(0, 1)
            self.own.write(layer, keys, -keys, torch.full_like(places, slot), places)
        self.own.set_num_filled(slot, len(self.numbers[slot]))

    def leave(self, slot: int) -> None:
        self.own.remove_slot(slot, len(self.prefixes))
        self.prefixes[slot], self.numbers[slot] = self.prefixes[-1], self.numbers[-1]
        self.prefixes.pop()
        self.numbers.pop()

    def check(self) -> None:
        if self.numbers:
            free = self.own.capacity - max(map(add, self.own.before, map(len, self.numbers)))
            assert self.own.has_capacity([len(numbers) + free for numbers in self.numbers])
            assert not self.own.has_capacity([len(numbers) + free + 1 for numbers in self.numbers])
        assert set(self.own.continued[len(self.prefixes) :]) <= {None}
        for slot, (prefix, numbers) in enumerate(zip(self.prefixes, self.numbers, strict=True)):
            before = [token for one in (prefix.path if prefix else []) for token in one.tokens]
            for layer in range(HEADS.layers):
                keys = keys_of(layer, [*before, *numbers])
                for pool, expected in zip(self.own.get_flat_kv(layer, 0), (keys, -keys), strict=True):
                    pages = pool.view(-1, PAGE, HEADS.kv_heads, HEADS.dim)[self.own.page_table[slot].long()]
                    assert torch.equal(pages.flatten(0, 1)[: expected.shape[1]].transpose(0, 1), expected)
                stored = self.own.read_stored_kv(layer, slot, len(numbers))
                assert torch.equal(stored[0], keys[:, len(before) :])
                assert torch.equal(self.own.get_slot_tensors(slot)[layer][:, : len(numbers)], stored[0])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(6))
def test_a_rows_table_leads_to_its_keys_whatever_happened(seed: int) -> None:
    chance = random.Random(seed)
    trunk = prefix_of(list(range(1000, 1040)))
    forks = [
        prefix_of(list(range(first, first + 7 + 9 * at)), trunk)
        for at, first in enumerate((2000, 3000, 4000))
    ]
    leaf = prefix_of(list(range(5000, 5003)), forks[2])
    known = [None, trunk, *forks, leaf, prefix_of(list(range(6000, 6032))), prefix_of([7000])]
    rows = Rows()
    for step in range(60):
        if not rows.prefixes or (chance.random() < 0.4 and len(rows.prefixes) < 12):
            rows.enter(chance.randint(0, len(rows.prefixes)), chance.choice(known), chance.randint(1, 3))
        elif chance.random() < 0.35:
            rows.leave(chance.randrange(len(rows.prefixes)))
        else:
            rows.write(
                chance.randrange(len(rows.prefixes)), [10 * step + at for at in range(chance.randint(1, 9))]
            )
        rows.check()
    of_known = sum(one.count_pages(PAGE) for one in known if one)
    assert rows.own.spare <= 2 * of_known, "pages that no row reads are used again"


def test_pages_and_copies_count_as_memory() -> None:
    trunk = prefix_of(list(range(40)))
    assert (trunk.count_pages(PAGE), trunk.length % PAGE) == (2, 8)
    assert compute_kv_store_size_tokens(HEADS, None, [40, 12, 33]) == 3 * 48
    trunk.in_pages = 32
    assert (trunk.stored_size, trunk.resident_tokens) == (72, 72)
    on_gpu = create_kv_store(meta_heads(), None, [300, 200], [meta_prefix(600), meta_prefix(300)])
    assert isinstance(on_gpu, PagedSlots)
    pages = sum(map(len, on_gpu.shared.values()))
    assert (pages, len(on_gpu.keys[0]), on_gpu.capacity) == (3, 4, 512)
    assert on_gpu.resident_tokens == 4 * 512 - 3 * 256, "the slots, and pages that are free"


def meta_heads(group: int = 7, window: int | None = None) -> KvCacheSpec:
    windows = (None if window is None else Window(window),) * 2
    return KvCacheSpec(
        2, 2, group, 64, torch.bfloat16, torch.device("meta"), windows, by_sdpa=True, page=page_trial.PAGE
    )


def meta_prefix(length: int) -> Prefix:
    prefix = Prefix(list(range(length)))
    prefix.kv = SharedKv.allocate(meta_heads(), length, None)
    return prefix


@pytest.mark.parametrize(("group", "window"), [(7, None), (1, None), (7, 300)])
def test_what_a_step_hands_to_flash_attention_is_what_it_takes(group: int, window: int | None) -> None:
    """Each of these is a check of mha_varlen_fwd in torch's flash_api.cpp, or what its kernels
    assume."""
    heads, rows = meta_heads(group, window), 4
    own = create_kv_store(heads, None, [300] * rows, [meta_prefix(600), None, meta_prefix(300), None])
    assert isinstance(own, PagedSlots)
    table = torch.zeros(rows, 12, dtype=torch.int64, device="meta")
    step = StepAttention(heads, own, [], table, 0, own.page_table[:rows])
    query, key = (
        torch.zeros(1, rows, count, 64, dtype=heads.dtype, device="meta") for count in (2 * group, 2)
    )
    with Operations() as seen:
        out = step.attend(1, query.transpose(1, 2)[0], key.transpose(1, 2)[0], key.transpose(1, 2)[0], 0.125)
    assert out.shape == (rows, 2 * group, 64)
    [((q, k, v, cu_q, cu_k, max_q, max_k, dropout, is_causal, debug), more)] = seen.of(
        "_flash_attention_forward"
    )
    assert (max_q, dropout, is_causal, debug) == (1, 0.0, False, False)
    tables = (cu_q, cu_k, more["seqused_k"], more["block_table"])
    assert {one.device for one in (q, k, v, *tables)} == {heads.device}
    assert all(one.dtype is torch.int32 for one in tables)
    assert all(one.stride(-1) == 1 for one in (q, k, v, more["block_table"]))
    assert all(one.is_contiguous() for one in tables[:3])
    assert q.shape == (rows, 2 * group, 64)
    assert k.shape == v.shape == (len(own.keys[1]) * own.capacity // 256, 256, 2, 64)
    assert k.is_contiguous(), "the stride of pages"
    assert v.is_contiguous()
    assert (k.data_ptr(), q.dtype, k.dtype, v.dtype) == (own.keys[1].data_ptr(), *[heads.dtype] * 3)
    width = more["block_table"].shape[1]
    assert (more["block_table"].shape, max_k) == ((rows, width), width * 256)
    assert width * 256 >= 600 + 300
    assert cu_q.shape == cu_k.shape == (rows + 1,)
    assert more["seqused_k"].shape == (rows,)
    window_sizes = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    assert window_sizes.items() <= more.items()
    # set_params_fprop leaves o_batch_stride 0 unless the heads of a group are swapped with the
    # queries: then no splits
    assert more.get("num_splits") == (None if group > 1 and window is None else 1)


def test_each_page_of_a_table_exists_and_positions_beyond_it_are_never_asked_for() -> None:
    own = create_kv_store(
        HEADS, None, [40] * 3, [prefix_of(list(range(40))), None, prefix_of(list(range(70)))]
    )
    assert isinstance(own, PagedSlots)
    assert own.page_table.shape == (3, 4 + own.capacity // PAGE)
    pool = own.get_flat_kv(0, 0)[0]
    assert int(own.page_table.min()) >= 0
    assert (int(own.page_table.max()) + 1) * PAGE <= len(pool)
    table = torch.zeros(3, 12, dtype=torch.int64)
    table[:, POSITION] = torch.tensor([40, 0, 75])
    step = StepAttention(HEADS, own, [], table, 0, own.page_table)
    assert step._num_visible_positions.tolist() == [41, 1, 76]
    first = own.capacity
    assert step._flat_indices_of_newest_kv.tolist() == [8, first, 2 * first + 11]


def test_what_does_not_work_on_a_device_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A torch without block tables, one that refuses, one that reads other pages or what nobody
    sees."""
    caplog.set_level("INFO")
    heads = KvCacheSpec(1, 2, 2, 64, torch.float32, torch.device("cpu"), (Window(100), None), by_sdpa=True)
    assert find_kv_page_size(heads) == 256
    attend, schema = (
        device_attention.compute_variable_length_attention,
        page_trial._read_flash_attention_schema(),
    )

    def refuses(scaling: Any, query: torch.Tensor, own: Any) -> Any:
        if own.blocks is not None:
            raise RuntimeError("Paged KV cache block size must be divisible by 512")
        return attend(scaling, query, own)

    def ignores_the_table(scaling: Any, query: torch.Tensor, own: Any) -> Any:
        if own.blocks is not None:
            keys, values = (
                some.nan_to_num().repeat(2, 1, 1)[: own.starts[-1]] for some in (own.keys, own.values)
            )
            own = replace(own, keys=keys, values=values, blocks=None)
        return attend(scaling, query, own)

    def joins_splits_in_the_first_row(scaling: Any, query: torch.Tensor, own: Any) -> Any:
        out, log = attend(scaling, query, own)
        if own.blocks is not None and own.window is not None:
            out = torch.cat((out[-1:], torch.zeros_like(out[1:])))
        return out, log

    def reads_what_nobody_sees(scaling: Any, query: torch.Tensor, own: Any) -> Any:
        out, log = attend(scaling, query, own)
        return (out if own.blocks is None else out + 0 * own.keys[0].sum()), log

    wrong = {
        "divisible by 512": refuses, "would be off by": ignores_the_table, "in a window": joins_splits_in_the_first_row,
        "off by nan": reads_what_nobody_sees,
    }  # fmt: skip
    for why, instead in wrong.items():
        monkeypatch.setattr(page_trial, "compute_variable_length_attention", instead)
        caplog.clear()
        assert find_kv_page_size(heads) == 0
        assert why in caplog.text
    monkeypatch.setattr(page_trial, "compute_variable_length_attention", attend)
    monkeypatch.setattr(
        page_trial,
        "_read_flash_attention_schema",
        lambda: schema.replace("block_table", "").replace("num_splits", ""),
    )
    assert find_kv_page_size(heads) == 0
    assert "block_table or num_splits" in caplog.text
