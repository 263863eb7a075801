"""Attention of a pass, in all formats of keys and values and all ways, beside one softmax in
float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attending import (
    GPU,
    ON_GPU,
    WAYS,
    heads_for,
    ints,
    kernels_or_none,
    on_the_device_of_the_way,
    random,
    shared_kv,
    use_of,
)
from passes import CASES, FORMATS, check_pass, one_softmax

from runner_engine.attention.attention import PassLayout
from runner_engine.kernels import c_interface, token_selection
from runner_engine.kv_cache.kv_store import KvCacheSpec, get_attention_kernels_if_supported
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.kv_cache.slots import SlotStore

__all__ = ["on_the_device_of_the_way"]
CPU = torch.device("cpu")
OF_ALL_CASES = pytest.mark.parametrize("case", CASES)
OF_ALL_FORMATS = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use one thread: such small products are slower on two, most of all beside other tests.

    Where there are many prefixes, two threads must not step on each other's rows.
    """
    callspec = getattr(request.node, "callspec", None)
    before = torch.get_num_threads()
    torch.set_num_threads(2 if callspec and callspec.params.get("case") == "many prefixes" else 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.sampled(25)
@OF_ALL_CASES
@OF_ALL_FORMATS
def test_kernels(case: str, form: str) -> None:
    check_pass(CASES[case], form, "kernels")


@pytest.mark.sampled(24)
@pytest.mark.parametrize("way", ["torch", "sdpa"])
@OF_ALL_CASES
@OF_ALL_FORMATS
def test_torch(case: str, form: str, way: str) -> None:
    check_pass(CASES[case], form, way)


@GPU
@pytest.mark.sampled(8)
@pytest.mark.parametrize("way", ["torch" + ON_GPU, "sdpa" + ON_GPU])
@OF_ALL_CASES
@OF_ALL_FORMATS
def test_torch_on_a_gpu(case: str, form: str, way: str) -> None:
    check_pass(CASES[case], form, way)


@WAYS
def test_scores_that_leave_no_room_for_exp(way: str) -> None:
    """One key far above all others, scores in the hundreds: no infinity, no nan, and that key alone
    counts."""
    heads = heads_for(way, 1, 1, 3, 16, torch.float32)
    own = create_kv_store(heads, kernels_or_none(way), [600])
    keys, values = (
        torch.zeros(600, 1, 16),
        random(torch.Generator().manual_seed(0), 600, 1, 16, dtype=torch.float32),
    )
    keys[:, 0, 0] = torch.linspace(-40, 40, 600)
    keys[300, 0, 0] = 100.0
    own.write(0, keys[:-1], values[:-1], ints([0] * 599), ints(list(range(599))))
    query = torch.zeros(3, 1, 16)
    query[:, 0, 0] = torch.tensor([9.0, -9.0, 0.0])
    what = PassLayout(heads, kernels_or_none(way), own, ints([0]), ints([599]), ints([600]))
    result = what.attend(0, query, keys[-1:].transpose(0, 1), values[-1:].transpose(0, 1), 1.0)[0]
    assert torch.allclose(result[0], values[300, 0], atol=1e-6)
    assert torch.allclose(result[2], values[:, 0].mean(dim=0), atol=1e-5), "no difference of scores: the mean"
    assert bool(result.isfinite().all())


@WAYS
def test_scores_of_a_prefix_that_leave_no_room_for_exp(way: str) -> None:
    """The same where the prefix has that key, in its second block of 512, and the row's own key
    counts for nothing."""
    heads, kernels = heads_for(way, 1, 1, 3, 16, torch.float32), kernels_or_none(way)
    keys, values = (
        torch.zeros(1, 600, 16),
        random(torch.Generator().manual_seed(0), 1, 600, 16, dtype=torch.float32),
    )
    keys[0, :, 0] = torch.linspace(-40, 40, 600)
    keys[0, 550, 0] = 100.0
    prefix = shared_kv(heads, kernels, [keys], [values])
    query = torch.zeros(3, 1, 16)
    query[:, 0, 0] = torch.tensor([9.0, -9.0, 0.0])
    what = PassLayout(
        heads,
        kernels,
        create_kv_store(heads, kernels, [1]),
        ints([0]),
        ints([0]),
        ints([1]),
        [use_of(prefix, [0], 1)],
    )
    own = torch.zeros(1, 1, 16)
    result = what.attend(0, query, own, own, 1.0)[0]
    assert torch.allclose(result[0], values[0, 550], atol=1e-6)
    assert torch.allclose(result[2], values[0].sum(dim=0) / 601, atol=1e-5), (
        "no difference of scores: the mean"
    )
    assert bool(result.isfinite().all())


@WAYS
def test_layers_with_fewer_and_narrower_heads_are_filled_up(way: str) -> None:
    """Keys of 24, values of 16 and a key-value head for all four queries, in a store of two heads
    of 32."""
    heads, kernels = heads_for(way, 1, 2, 2, 32, torch.float32), kernels_or_none(way)
    numbers = torch.Generator().manual_seed(2)
    own = create_kv_store(heads, kernels, [40])
    query, keys, values = (
        random(numbers, rows, 20, width, dtype=torch.float32) for rows, width in ((4, 24), (1, 24), (1, 16))
    )
    what = PassLayout(heads, kernels, own, ints([0] * 20), ints(list(range(20))), ints(list(range(1, 21))))
    result = what.attend(0, query, keys, values, 0.3)
    assert result.shape == (20, 4, 16)
    narrow = KvCacheSpec(1, 1, 4, 24, torch.float32, CPU)
    for at in range(20):
        wanted = one_softmax(query[:, at], keys[:, : at + 1], values[:, : at + 1], narrow, 0.3)
        assert float((result[at].double() - wanted).abs().max()) < 2e-5


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_the_store_keeps_what_it_is_given(dtype: torch.dtype, way: str) -> None:
    """Write, read, leave, enter, grow: bit for bit, and no neighbour is touched."""
    heads = heads_for(way, 2, 3, 2, 48, dtype)
    lengths, needs = [29, 1, 32], [40, 70, 32]
    own = create_kv_store(heads, kernels_or_none(way), needs)
    random_numbers = torch.Generator().manual_seed(1)
    given = [[[random(random_numbers, length, 3, 48, dtype=dtype) for _ in range(2)] for length in lengths]
             for _ in range(heads.layers)]  # fmt: skip
    for layer in range(heads.layers):
        for slot, length in enumerate(lengths):
            # places may come in any order
            order = torch.randperm(length, generator=random_numbers, device="cpu").to(heads.device)
            keys, values = (one[order] for one in given[layer][slot])
            own.write(layer, keys, values, ints([slot] * length), order.int())
            own.set_num_filled(slot, length)

    def same(slot: int, source: int) -> bool:
        read = [own.read(layer, slot, lengths[source]) for layer in range(heads.layers)]
        return all(
            torch.equal(one, given[layer][source][which].transpose(0, 1))
            for layer in range(heads.layers)
            for which, one in enumerate(read[layer])
        )

    assert [same(slot, slot) for slot in range(3)] == [True] * 3
    if heads.device.type == "cuda":  # which gives memory to all places at once
        assert isinstance(own, SlotStore)
        assert own.resident_tokens == own.slots * own.capacity
    else:
        assert own.resident_tokens == sum(lengths)
    # the last goes behind them
    own.insert_slots(2, 2, [*needs[:2], 90, 100, needs[2]], [*lengths[:2], 80, 80, lengths[2]], 5)
    assert [same(0, 0), same(1, 1), same(4, 2)] == [True] * 3
    own.remove_slot(0, 4)  # the last of the first four goes to its place
    assert [same(1, 1), same(3, 2)] == [True] * 2
    own.remove_slot(1, 2)
    own.ensure_capacity(90, 100)
    assert same(2, 2)
    for place in (0, 99):
        own.write(0, torch.ones(1, 3, 48).to(dtype), torch.ones(1, 3, 48).to(dtype), ints([0]), ints([place]))
    assert same(2, 2)


@pytest.mark.parametrize(
    ("dtype", "group", "dim", "made"),
    [
        (torch.float32, 1, 16, True),
        (torch.bfloat16, c_interface.MAX_GROUP, c_interface.MAX_DIM, True),
        (torch.float16, 1, 64, False),
        (torch.float32, c_interface.MAX_GROUP + 1, 64, False),
        (torch.float32, 1, 72, False),  # no multiple of the lanes
        (torch.float32, 1, c_interface.MAX_DIM + 16, False),
    ],
)
def test_what_the_kernels_are_made_for(dtype: torch.dtype, group: int, dim: int, made: bool) -> None:
    kernels_or_none("kernels")
    assert (get_attention_kernels_if_supported(KvCacheSpec(1, 2, group, dim, dtype, CPU)) is not None) is made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_the_largest_is_picked(dtype: torch.dtype) -> None:
    scores = torch.randn(5, 1003, generator=torch.Generator().manual_seed(3)).to(dtype)
    scores[1, 700] = scores[1, 20] = 9.0
    scores[2] = -float("inf")
    scores[2, 1002] = -5.0
    scores[3] = 0.0
    best = token_selection.argmax(scores)
    assert best[1:4].tolist() == [20, 1002, 0]
    assert torch.equal(scores.gather(1, best[:, None])[:, 0], scores.amax(dim=1))
