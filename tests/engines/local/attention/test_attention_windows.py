"""Attention through windows, with caps and sinks, and of heads that differ, against a reference in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from runner.engines.local.interface import PLAIN, Softmax
from runner.engines.local.kv_cache.kv_cache import Heads
from runner.engines.local.kv_cache.shared_kv import own_kv
from runner.engines.local.windows import Window

__all__ = ["on_the_device_of_the_way"]
CPU = torch.device("cpu")
TRUNK, BRANCH = 600, 37  # two prefixes, the second behind the first; over more than a block of 512 keys
ROWS = [  # of a row: its prefixes, own places of earlier passes, new tokens, whether these go as a span
    (2, 0, 40, True), (2, 3, 1, False), (1, 700, 30, True), (1, 0, 9, False), (0, 520, 1, False), (0, 0, 70, True),
    (2, 130, 1, False), (0, 17, 5, False),
]  # fmt: skip
WINDOWS = [None, Window(8), Window(50), Window(620), Window(64, is_chunk=True)]
SINKS = torch.tensor([0.5, -1.0, 3.0, 0.0, 1.5, -2.0])


@dataclass
class Text:
    """All keys and values that a row has, by position, and the first position that is its own."""

    keys: torch.Tensor  # [KVH, L, D]
    values: torch.Tensor
    start: int


def expected(
    query: torch.Tensor, text: Text, position: int, window: Window | None, heads: Heads, softmax: Softmax
) -> torch.Tensor:
    """Return [H, D] for one token: one softmax over what it sees, in float64."""
    seen = slice(window.first(position) if window else 0, position + 1)
    keys, values = (some[:, seen].double().repeat_interleave(heads.group, dim=0) for some in (text.keys, text.values))
    scores = (query.double()[:, None] * keys).sum(dim=-1) * 0.3
    if softmax.cap:
        scores = softmax.cap * (scores / softmax.cap).tanh()
    if softmax.sinks is not None:
        scores = torch.cat((scores, softmax.sinks.to(scores)[:, None]), dim=1)
    weights = scores.softmax(dim=-1)[:, : keys.shape[1]]
    return (weights[..., None] * values).sum(dim=1)


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("softmax", [PLAIN, Softmax(cap=2.5, sinks=SINKS)], ids=["plain", "cap and sinks"])
@pytest.mark.parametrize("is_step", [True, False], ids=["step", "prompts"])
def test_windows_caps_and_sinks(
    is_step: bool,
    softmax: Softmax,
    window: Window | None,
    dtype: torch.dtype,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads, kernels = heads_for(way, 1, 2, 3, 48, dtype, (window,)), kernels_or_none(way)
    monkeypatch.setitem(parts.SCORES, "cpu", 6 * 64 * 90)  # long prompts are read in pieces
    numbers = torch.Generator().manual_seed(5)
    trunk, branch = (
        [random(numbers, 2, length, 48, dtype=dtype) for _ in range(2)] for length in (TRUNK, BRANCH)
    )  # fmt: skip
    own = own_kv(heads, kernels, [800] * len(ROWS))
    texts: list[Text] = []
    slots: list[int] = []
    places: list[int] = []
    seen: list[int] = []
    positions: list[int] = []
    spans, new = [], []
    on: dict[int, list[int]] = {1: [], 2: []}  # tokens that stand on the trunk, and on the branch, too
    for slot, (depth, before, count, is_span) in enumerate(ROWS):
        count = 1 if is_step else count
        mine = [random(numbers, 2, before + count, 48, dtype=dtype) for _ in range(2)]
        if before:
            some = [one[:, :before].transpose(0, 1) for one in mine]
            own.write(0, some[0], some[1], ints([slot] * before), ints(list(range(before))))
        above = [trunk, branch][:depth]
        keys, values = (torch.cat([*(one[kind] for one in above), mine[kind]], dim=1) for kind in range(2))
        start = keys.shape[1] - before - count
        texts.append(Text(keys, values, start))
        first = len(slots)
        for level in range(1, depth + 1):
            on[level] += range(first, first + count)
        if is_span and not is_step:
            spans.append(Span(first, first + count, slot, before))
        new.append([one[:, before:] for one in mine])
        slots += [slot] * count
        places += range(before, before + count)
        positions += range(start + before, start + before + count)
        seen += [0] * count if is_span and not is_step else range(before + 1, before + count + 1)
    uses = [
        use_of(shared_kv(heads, kernels, [kv[0]], [kv[1]]), on[level], len(slots))
        for level, kv in enumerate((trunk, branch), start=1)
    ]
    uses[1].start = TRUNK
    query = random(numbers, 6, len(slots), 48, dtype=dtype)
    what = PassLayout(heads, kernels, own, ints(slots), ints(places), ints(seen), uses, spans, is_step, positions)
    keys, values = (torch.cat([one[kind] for one in new], dim=1) for kind in range(2))
    if softmax.sinks is not None:
        softmax = replace(softmax, sinks=softmax.sinks.to(heads.device))
    result = what.attend(0, query, keys, values, 0.3, softmax)
    for at, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        wanted = expected(query[:, at], texts[slot], position, window, heads, softmax)
        off = float((result[at].double() - wanted).abs().max())
        assert off < TOLERANCE[dtype], f"token {at} of row {slot}, position {position}: off by {off}"


@WAYS
def test_layers_with_fewer_and_narrower_heads_are_filled_up(way: str) -> None:
    """Keys of 24, values of 16 and a key-value head for all four queries, in a store of two heads of 32."""
    heads, kernels = heads_for(way, 1, 2, 2, 32, torch.float32), kernels_or_none(way)
    numbers = torch.Generator().manual_seed(2)
    own = own_kv(heads, kernels, [40])
    query, keys, values = (
        random(numbers, rows, 20, width, dtype=torch.float32) for rows, width in ((4, 24), (1, 24), (1, 16))
    )
    what = PassLayout(heads, kernels, own, ints([0] * 20), ints(list(range(20))), ints(list(range(1, 21))))
    result = what.attend(0, query, keys, values, 0.3)
    assert result.shape == (20, 4, 16)
    narrow, text = Heads(1, 1, 4, 24, torch.float32, CPU), Text(keys, values, 0)
    for at in range(20):
        wanted = expected(query[:, at], text, at, None, narrow, PLAIN)
        assert float((result[at].double() - wanted).abs().max()) < 2e-5
