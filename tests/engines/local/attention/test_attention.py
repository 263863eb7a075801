"""The attention of a stream against a reference in float64, compiled and in torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from attending import (
    TOLERANCE,
    WAYS,
    heads_for,
    ints,
    kernels_or_none,
    on_the_device_of_the_way,
    random,
    shared_kv,
    use_of,
)

from runner.engines.local.attention import parts
from runner.engines.local.attention.attention import PassLayout, Span
from runner.engines.local.kernels import native, shared_numbers
from runner.engines.local.kv_cache.kv_cache import Heads, kernels_for
from runner.engines.local.kv_cache.shared_kv import own_kv

__all__ = ["on_the_device_of_the_way"]
CPU = torch.device("cpu")
SHAPES = [  # key-value heads, group, dim: those with code of their own in kernels/attention_own.h, and others
    (3, 1, 64), (2, 2, 64), (3, 3, 64), (2, 4, 64), (2, 7, 64), (1, 8, 64), (2, 1, 128), (2, 4, 128), (1, 6, 128),
    (1, 8, 128), (2, 5, 16), (1, 16, 32), (3, 2, 80), (2, 3, 96), (1, 9, 112), (2, 1, 256), (1, 16, 256),
]  # fmt: skip
LENGTHS = [1, 2, 15, 16, 17, 33, 511, 512, 513, 700]  # own keys: around the kernels' lanes and their blocks of 512


@dataclass
class Token:
    """What one token of a pass is to see: its query, and all keys and values in one row."""

    query: torch.Tensor  # [H, D]
    keys: torch.Tensor  # [KVH, L, D]
    values: torch.Tensor


def reference(tokens: list[Token], heads: Heads, scale: float) -> torch.Tensor:
    """Return [T, H, D]: one softmax over all that a token sees, in float64."""
    rows = []
    for token in tokens:
        query = token.query.double().view(heads.kv_heads, heads.group, heads.dim)
        scores = query @ token.keys.double().mT * scale
        rows.append((scores.softmax(dim=-1) @ token.values.double()).flatten(0, 1))
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: such small products are slower on two, most of all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(result: torch.Tensor, tokens: list[Token], heads: Heads, scale: float) -> None:
    expected = reference(tokens, heads, scale)
    off = (result.double() - expected).abs().amax(dim=(1, 2))
    assert float(off.max()) < TOLERANCE[heads.dtype], f"tokens {off.argmax()}: off by {off.tolist()}"


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("is_step", [True, False], ids=["step", "any"])
def test_decoding_over_own_keys_and_prefixes(
    is_step: bool, shape: tuple[int, int, int], dtype: torch.dtype, way: str
) -> None:
    """Rows of very different lengths; two prefixes that not all of them see, one that all see."""
    heads = heads_for(way, 2, *shape, dtype)
    kernels = kernels_or_none(way)
    random_numbers = torch.Generator().manual_seed(sum(shape))
    count, layer = len(LENGTHS), 1
    own = own_kv(heads, kernels, [max(LENGTHS)] * (count + 2))
    slots = torch.randperm(count + 2, generator=random_numbers, device="cpu")[
        :count
    ].tolist()  # in no order, two left free
    keys = [random(random_numbers, heads.kv_heads, length, heads.dim, dtype=dtype) for length in LENGTHS]
    values = [random(random_numbers, heads.kv_heads, length, heads.dim, dtype=dtype) for length in LENGTHS]
    for row in range(count):  # all but the newest place, which the pass itself writes
        some = LENGTHS[row] - 1
        own.write(
            layer, keys[row][:, :some].transpose(0, 1), values[row][:, :some].transpose(0, 1),
            ints([slots[row]] * some), ints(list(range(some))),
        )  # fmt: skip
    prefixes, seen_by = [], [list(range(count)), [0, 3, 4, 9], [1, 3]]
    for length in (1100, 7, 1):  # over more than two blocks of 512 keys
        kv = [random(random_numbers, heads.kv_heads, length, heads.dim, dtype=dtype) for _ in range(4)]
        prefixes.append(shared_kv(heads, kernels, kv[:2], kv[2:]))
    query = random(random_numbers, heads.kv_heads * heads.group, count, heads.dim, dtype=dtype)
    what = PassLayout(
        heads, kernels, own, ints(slots), ints([length - 1 for length in LENGTHS]), ints(LENGTHS),
        uses=[use_of(prefix, rows, count) for prefix, rows in zip(prefixes, seen_by, strict=True)], is_step=is_step,
    )  # fmt: skip
    newest = [torch.stack([one[row][:, -1] for row in range(count)], dim=1) for one in (keys, values)]
    scale = heads.dim**-0.5
    result = what.attend(layer, query, newest[0], newest[1], scale)
    tokens = []
    for row in range(count):
        shared = [prefix for prefix, rows in zip(prefixes, seen_by, strict=True) if row in rows]
        tokens.append(Token(
            query[:, row],
            torch.cat([*(one.read(layer)[0] for one in shared), keys[row]], dim=1),
            torch.cat([*(one.read(layer)[1] for one in shared), values[row]], dim=1),
        ))  # fmt: skip
    check(result, tokens, heads, scale)
    for row in range(count):
        read = own.read(layer, slots[row], LENGTHS[row])
        assert torch.equal(read[0], keys[row])
        assert torch.equal(read[1], values[row])


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("shape", [(2, 2, 16), (1, 3, 64), (2, 5, 80)], ids=lambda shape: "x".join(map(str, shape)))
def test_reading_prompts_with_and_without_earlier_places(
    shape: tuple[int, int, int], dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans, one of them behind places that an earlier pass filled, and a row whose tokens come one by one."""
    heads = heads_for(way, 1, *shape, dtype)
    kernels = kernels_or_none(way)
    monkeypatch.setitem(parts.SCORES, "cpu", 40 * shape[0] * shape[1] * 60)  # long prompts are read in pieces
    random_numbers = torch.Generator().manual_seed(7)
    own, prefix_tokens = own_kv(heads, kernels, [700] * 4), 33
    news, before = [90, 1, 130, 5], [0, 64, 530, 0]  # new tokens of each row, and its places so far
    all_keys, all_values = (
        [random(random_numbers, heads.kv_heads, old + new, heads.dim, dtype=dtype)
         for old, new in zip(before, news, strict=True)]
        for _ in range(2)
    )  # fmt: skip
    for slot, old in enumerate(before):
        if old:
            some = [one[slot][:, :old].transpose(0, 1) for one in (all_keys, all_values)]
            own.write(0, some[0], some[1], ints([slot] * old), ints(list(range(old))))
    kv = [random(random_numbers, heads.kv_heads, prefix_tokens, heads.dim, dtype=dtype) for _ in range(2)]
    prefix, sees_prefix = shared_kv(heads, kernels, kv[:1], kv[1:]), [True, False, False, True]
    slot_of = [slot for slot, new in enumerate(news) for _ in range(new)]
    places = [old + at for old, new in zip(before, news, strict=True) for at in range(new)]
    spans = [Span(0, 90, 0, 0), Span(91, 221, 2, 530)]
    in_span = {at for span in spans for at in range(span.first, span.last)}
    seen = [0 if at in in_span else place + 1 for at, place in enumerate(places)]
    count = len(slot_of)
    users = [at for at in range(count) if sees_prefix[slot_of[at]]]
    what = PassLayout(
        heads, kernels, own, ints(slot_of), ints(places), ints(seen),
        uses=[use_of(prefix, users, count)], spans=spans,
    )  # fmt: skip
    query = random(random_numbers, heads.kv_heads * heads.group, count, heads.dim, dtype=dtype)
    new_keys, new_values = (
        torch.cat([one[slot][:, old:] for slot, old in enumerate(before)], dim=1) for one in (all_keys, all_values)
    )
    result = what.attend(0, query, new_keys, new_values, 0.2)
    tokens = []
    for at in range(count):
        slot, reach = slot_of[at], places[at] + 1
        shared = [prefix] if sees_prefix[slot] else []
        tokens.append(Token(
            query[:, at],
            torch.cat([*(one.read(0)[0] for one in shared), all_keys[slot][:, :reach]], dim=1),
            torch.cat([*(one.read(0)[1] for one in shared), all_values[slot][:, :reach]], dim=1),
        ))  # fmt: skip
    check(result, tokens, heads, 0.2)


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_many_prefixes_in_one_pass(dtype: torch.dtype, way: str) -> None:
    """Each row has a prefix of its own group; the number of groups is not limited."""
    torch.set_num_threads(2)  # this once: nobody steps on another's row
    heads, groups = heads_for(way, 1, 2, 2, 32, dtype), 40
    kernels = kernels_or_none(way)
    random_numbers = torch.Generator().manual_seed(3)
    own = own_kv(heads, kernels, [16] * groups)
    prefixes = []
    for group in range(groups):
        kv = [random(random_numbers, 2, 1 + group, 32, dtype=dtype) for _ in range(2)]
        prefixes.append(shared_kv(heads, kernels, kv[:1], kv[1:]))
    query, keys, values = (random(random_numbers, rows, groups, 32, dtype=dtype) for rows in (4, 2, 2))
    what = PassLayout(
        heads, kernels, own, ints(list(range(groups))), ints([0] * groups), ints([1] * groups),
        uses=[use_of(prefix, [at], groups) for at, prefix in enumerate(prefixes)],
    )  # fmt: skip
    result = what.attend(0, query, keys, values, 0.2)
    tokens = [
        Token(
            query[:, at],
            torch.cat((prefix.read(0)[0], keys[:, at : at + 1]), dim=1),
            torch.cat((prefix.read(0)[1], values[:, at : at + 1]), dim=1),
        )
        for at, prefix in enumerate(prefixes)
    ]
    check(result, tokens, heads, 0.2)


@WAYS
def test_scores_that_leave_no_room_for_exp(way: str) -> None:
    """One key far above all others, scores in the hundreds: no infinity, no nan, and that key alone counts."""
    heads = heads_for(way, 1, 1, 3, 16, torch.float32)
    own = own_kv(heads, kernels_or_none(way), [600])
    keys, values = torch.zeros(600, 1, 16), random(torch.Generator().manual_seed(0), 600, 1, 16, dtype=torch.float32)
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
    """The same where the prefix has that key, in its second block of 512, and the row's own key counts for nothing."""
    heads, kernels = heads_for(way, 1, 1, 3, 16, torch.float32), kernels_or_none(way)
    keys, values = torch.zeros(1, 600, 16), random(torch.Generator().manual_seed(0), 1, 600, 16, dtype=torch.float32)
    keys[0, :, 0] = torch.linspace(-40, 40, 600)
    keys[0, 550, 0] = 100.0
    prefix = shared_kv(heads, kernels, [keys], [values])
    query = torch.zeros(3, 1, 16)
    query[:, 0, 0] = torch.tensor([9.0, -9.0, 0.0])
    what = PassLayout(
        heads, kernels, own_kv(heads, kernels, [1]), ints([0]), ints([0]), ints([1]), [use_of(prefix, [0], 1)]
    )
    own = torch.zeros(1, 1, 16)
    result = what.attend(0, query, own, own, 1.0)[0]
    assert torch.allclose(result[0], values[0, 550], atol=1e-6)
    assert torch.allclose(result[2], values[0].sum(dim=0) / 601, atol=1e-5), "no difference of scores: the mean"
    assert bool(result.isfinite().all())


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_the_store_keeps_what_it_is_given(dtype: torch.dtype, way: str) -> None:
    """Write, read, leave, enter, grow: bit for bit, and no neighbour is touched."""
    heads = heads_for(way, 2, 3, 2, 48, dtype)
    lengths, needs = [29, 1, 32], [40, 70, 32]
    own = own_kv(heads, kernels_or_none(way), needs)
    random_numbers = torch.Generator().manual_seed(1)
    given = [[[random(random_numbers, length, 3, 48, dtype=dtype) for _ in range(2)] for length in lengths]
             for _ in range(heads.layers)]  # fmt: skip
    for layer in range(heads.layers):
        for slot, length in enumerate(lengths):
            order = torch.randperm(length, generator=random_numbers, device="cpu").to(
                heads.device
            )  # places may come in any order
            keys, values = (one[order] for one in given[layer][slot])
            own.write(layer, keys, values, ints([slot] * length), order.int())
            own.fill(slot, length)

    def same(slot: int, source: int) -> bool:
        read = [own.read(layer, slot, lengths[source]) for layer in range(heads.layers)]
        return all(
            torch.equal(one, given[layer][source][which].transpose(0, 1))
            for layer in range(heads.layers)
            for which, one in enumerate(read[layer])
        )

    assert [same(slot, slot) for slot in range(3)] == [True] * 3
    assert own.held == sum(lengths)
    own.enter(2, 2, [*needs[:2], 90, 100, needs[2]], [*lengths[:2], 80, 80, lengths[2]], 5)  # the last goes behind them
    assert [same(0, 0), same(1, 1), same(4, 2)] == [True] * 3
    own.leave(0, 4)  # the last of the first four goes to its place
    assert [same(1, 1), same(3, 2)] == [True] * 2
    own.leave(1, 2)
    own.lengthen(90, 100)
    assert same(2, 2)
    for place in (0, 99):
        own.write(0, torch.ones(1, 3, 48).to(dtype), torch.ones(1, 3, 48).to(dtype), ints([0]), ints([place]))
    assert same(2, 2)


@pytest.mark.parametrize(
    ("dtype", "group", "dim", "made"),
    [
        (torch.float32, 1, 16, True),
        (torch.bfloat16, shared_numbers.MAX_GROUP, shared_numbers.MAX_DIM, True),
        (torch.float16, 1, 64, False),
        (torch.float32, shared_numbers.MAX_GROUP + 1, 64, False),
        (torch.float32, 1, 72, False),  # no multiple of the lanes
        (torch.float32, 1, shared_numbers.MAX_DIM + 16, False),
    ],
)
def test_what_the_kernels_are_made_for(dtype: torch.dtype, group: int, dim: int, made: bool) -> None:
    kernels_or_none("kernels")
    assert (kernels_for(Heads(1, 2, group, dim, dtype, CPU)) is not None) is made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_the_largest_is_picked(dtype: torch.dtype) -> None:
    scores = torch.randn(5, 1003, generator=torch.Generator().manual_seed(3)).to(dtype)
    scores[1, 700] = scores[1, 20] = 9.0
    scores[2] = -float("inf")
    scores[2, 1002] = -5.0
    scores[3] = 0.0
    best = native.argmax(scores)
    assert best[1:4].tolist() == [20, 1002, 0]
    assert torch.equal(scores.gather(1, best[:, None])[:, 0], scores.amax(dim=1))
