"""Passes of attention, as tables: what each row of a pass sees, and one softmax over it in float64
as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from unittest import mock

import torch
from attending import TOLERANCE, heads_for, ints, kernels_or_none, random, shared_kv, use_of

from runner_engine.attention import partial_attention
from runner_engine.attention.attention import PassLayout, Span
from runner_engine.attention.interface import PLAIN, Softmax
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.kv_cache.sliding_windows import Window
from runner_engine.settings.kv_cache import KvCache, KvPrecision

FIRST = "first_tokens: as_model"
FORMATS = {  # of keys and values: those of the model, and as they are stored
    "f32": (torch.float32, KvCache.as_model),
    "bf16": (torch.bfloat16, KvCache.as_model),
    "f32 in int8": (torch.float32, KvCache.int8),
    "bf16 in int8": (torch.bfloat16, KvCache.int8),
    "f32 in int4": (torch.float32, KvCache.int4),
    "bf16 in int4": (torch.bfloat16, KvCache.int4),
    "bf16 in k8v4": (torch.bfloat16, KvCache.k8v4),
    "f32 in 4 and 32 bits": (torch.float32, KvCache(KvPrecision.int4, KvPrecision.as_model)),
    "bf16 in 16 and 4 bits": (
        torch.bfloat16,
        KvCache(KvPrecision.as_model, KvPrecision.int4, layers=((0, KvPrecision.int8),)),
    ),
    "f32 in int4, first plain": (torch.float32, KvCache.parse(f"{{keys: int4, values: int4, {FIRST}}}")),
    "bf16 in int8, first plain": (torch.bfloat16, KvCache.parse(f"{{keys: int8, values: int8, {FIRST}}}")),
    "bf16 in k8v4, first plain": (torch.bfloat16, KvCache.parse(f"{{keys: int8, values: int4, {FIRST}}}")),
}


@dataclass(frozen=True)
class PassRow:
    """A row of a pass: its own places of earlier passes, its new tokens, and the prefixes that it
    sees by number."""

    before: int
    new: int = 1
    prefixes: tuple[int, ...] = ()
    is_span: bool = False  # its new tokens see each other as a span, and not by what is stored


@dataclass(frozen=True)
class Scene:
    """The rows of a pass and the lengths of its prefixes; a prefix stands behind those with smaller
    numbers."""

    rows: tuple[PassRow, ...]
    prefixes: tuple[int, ...] = ()
    shuffled: bool = False  # rows are in slots in no order, of which two stay free

    def as_step(self) -> Scene:
        """Return the scene with one new token in each row."""
        return replace(self, rows=tuple(replace(row, new=1, is_span=False) for row in self.rows))


@dataclass(frozen=True)
class Case:
    """A scene, the heads that attend, and what is special about their softmax."""

    scene: Scene
    shape: tuple[int, int, int]  # key-value heads, group, dim
    is_step: bool = False
    window: Window | None = None
    softmax: Softmax = PLAIN
    scale: float = 1.0  # of scores, beside dim ** -0.5


# Own keys around the kernels' lanes and their blocks of 512; prefixes over more than two blocks.
LENGTHS = (1, 2, 15, 16, 17, 33, 127, 129, 511, 512, 513, 700)
SEEN_BY = (range(len(LENGTHS)), (0, 3, 4, 9), (1, 3))
DECODING = Scene(
    tuple(
        PassRow(length - 1, prefixes=tuple(number for number, rows in enumerate(SEEN_BY) if row in rows))
        for row, length in enumerate(LENGTHS)
    ),
    prefixes=(1100, 7, 1),
    shuffled=True,
)
PROMPTS = Scene(
    (PassRow(0, 90, (0,), is_span=True), PassRow(64), PassRow(530, 130, is_span=True), PassRow(0, 5, (0,))),
    prefixes=(33,),
)
MANY_PREFIXES = Scene(
    tuple(PassRow(0, prefixes=(group,)) for group in range(40)), prefixes=tuple(range(1, 41))
)
BRANCHES = Scene(
    (
        PassRow(0, 40, (0, 1), is_span=True), PassRow(3, 1, (0, 1)), PassRow(700, 30, (0,), is_span=True),
        PassRow(0, 9, (0,)), PassRow(520), PassRow(0, 70, is_span=True), PassRow(130, 1, (0, 1)), PassRow(17, 5),
    ),
    prefixes=(600, 37),
)  # fmt: skip
SHAPES = [  # those with code of their own in kernels/attention_own.h, and others
    (3, 1, 64), (2, 2, 64), (3, 3, 64), (2, 4, 64), (2, 7, 64), (1, 8, 64), (2, 1, 128), (2, 2, 128), (2, 4, 128),
    (1, 6, 128), (1, 8, 128), (2, 5, 16), (1, 16, 32), (3, 2, 80), (2, 3, 96), (1, 9, 112), (2, 1, 256), (1, 16, 256),
]  # fmt: skip
WINDOWS = [None, Window(8), Window(50), Window(620), Window(64, is_chunk=True)]
SOFTMAXES = {
    "plain": PLAIN,
    "cap and sinks": Softmax(cap=2.5, sinks=torch.tensor([0.5, -1.0, 3.0, 0.0, 1.5, -2.0])),
}


def _cases() -> Iterator[tuple[str, Case]]:
    for shape in SHAPES:
        name = "x".join(map(str, shape))
        yield f"decoding {name}", Case(DECODING, shape)
        yield f"step {name}", Case(DECODING, shape, is_step=True)
    for shape in ((2, 2, 16), (1, 3, 64), (2, 5, 80)):
        yield f"prompts {'x'.join(map(str, shape))}", Case(PROMPTS, shape, scale=1.6)
    yield "many prefixes", Case(MANY_PREFIXES, (2, 2, 32))
    for window in WINDOWS:
        for name, softmax in SOFTMAXES.items():
            case = Case(BRANCHES, (2, 3, 48), window=window, softmax=softmax, scale=2.0)
            yield f"branches, {window}, {name}", case
            yield (
                f"step on branches, {window}, {name}",
                replace(case, scene=BRANCHES.as_step(), is_step=True),
            )


CASES = dict(_cases())


def one_softmax(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: KvCacheSpec, scale: float, softmax: Softmax = PLAIN,
    layer: int = 1,
) -> torch.Tensor:  # fmt: skip
    """Return [H, D] for a query [H, D]: one softmax over keys and values [KVH, L, D] as they are
    stored, in float64."""
    if heads.is_quantized and not heads.num_unquantized_first:
        keys, values = as_stored(heads, layer, keys, values)
    scores = query.double().view(heads.kv_heads, heads.group, -1) @ keys.double().mT * scale
    if softmax.cap:
        scores = softmax.cap * (scores / softmax.cap).tanh()
    if softmax.sinks is not None:
        scores = torch.cat((scores, softmax.sinks.to(scores).view(heads.kv_heads, heads.group, 1)), dim=2)
    return (scores.softmax(dim=-1)[..., : keys.shape[1]] @ values.double()).flatten(0, 1)


def as_stored(
    heads: KvCacheSpec, layer: int, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what keys and values [KVH, L, D] of a layer are when they have been stored and are
    read, in float32."""
    numbers = []
    for of, given in zip(heads.get_layer_kv_formats(layer), (keys, values), strict=True):
        stored = of.decode_kv(
            of.encode_kv(heads.apply_hadamard_rotation_if_enabled(given)), heads.dim, torch.float32
        )
        numbers.append(heads.apply_hadamard_rotation_if_enabled(stored))
    return numbers[0], numbers[1]


def as_read(
    heads: KvCacheSpec, layer: int, given: list[torch.Tensor], is_beginning: bool
) -> list[torch.Tensor]:
    """Return keys and values [KVH, L, D] of a prefix or of a row's own places: the first of a text
    as the model's."""
    read = [*as_stored(heads, layer, *given)]
    for some, plain in zip(read, given, strict=True):
        if is_beginning:
            some[:, : heads.num_unquantized_first] = heads.apply_hadamard_rotation_if_enabled(
                heads.apply_hadamard_rotation_if_enabled(plain[:, : heads.num_unquantized_first])
            ).float()
    return read


def check_pass(case: Case, form: str, way: str) -> None:
    """Assert what a pass gives for each token, and what it leaves in the store, bit for bit."""
    dtype, kv_cache = FORMATS[form]
    kernels, scene, layer = kernels_or_none(way), case.scene, 1
    heads = replace(heads_for(way, 2, *case.shape, dtype, (case.window,) * 2), kv_cache=kv_cache)
    softmax = case.softmax
    if softmax.sinks is not None:
        softmax = replace(softmax, sinks=softmax.sinks.to(heads.device))
    numbers = torch.Generator().manual_seed(sum(case.shape))

    def keys_and_values(length: int) -> list[torch.Tensor]:
        return [random(numbers, heads.kv_heads, length, heads.dim, dtype=dtype) for _ in range(2)]

    count = len(scene.rows)
    order = torch.randperm(count + 2, generator=numbers, device="cpu")[:count].tolist()
    slot_of = order if scene.shuffled else [*range(count)]
    own = create_kv_store(
        heads, kernels, [max(row.before + row.new for row in scene.rows)] * (count + 2 * scene.shuffled)
    )
    for slot, row in zip(slot_of, scene.rows, strict=True):
        own.set_text_start(slot, not row.prefixes)
    prefixes = [[keys_and_values(length) for _ in range(heads.layers)] for length in scene.prefixes]
    starts = [0, *accumulate(scene.prefixes)]
    rows = [keys_and_values(row.before + row.new) for row in scene.rows]
    seen_prefixes, seen_rows = [prefix[layer] for prefix in prefixes], rows
    if heads.num_unquantized_first:
        seen_prefixes = [
            as_read(heads, layer, prefix, not number) for number, prefix in enumerate(seen_prefixes)
        ]
        seen_rows = [
            as_read(heads, layer, mine, not row.prefixes) for mine, row in zip(rows, scene.rows, strict=True)
        ]
    texts = [
        [
            torch.cat([*(seen_prefixes[number][kind] for number in row.prefixes), mine[kind]], dim=1)
            for kind in (0, 1)
        ]
        for row, mine in zip(scene.rows, seen_rows, strict=True)
    ]
    slots: list[int] = []
    places: list[int] = []
    seen: list[int] = []
    position_of: list[int] = []
    spans = []
    users: list[list[int]] = [[] for _ in scene.prefixes]
    for slot, row, mine, text in zip(slot_of, scene.rows, rows, texts, strict=True):
        if row.before:
            keys, values = (one[:, : row.before].transpose(0, 1) for one in mine)
            own.write(
                layer,
                heads.apply_hadamard_rotation_if_enabled(keys),
                heads.apply_hadamard_rotation_if_enabled(values),
                ints([slot] * row.before),
                ints([*range(row.before)]),
            )
        first = len(slots)
        if row.is_span:
            spans.append(Span(first, first + row.new, slot, row.before))
        slots += [slot] * row.new
        places += range(row.before, row.before + row.new)
        seen += [0 if row.is_span else place + 1 for place in places[first:]]
        position_of += range(text[0].shape[1] - row.new, text[0].shape[1])
        for number in row.prefixes:
            users[number] += range(first, len(slots))
    uses = [
        use_of(
            shared_kv(heads, kernels, [kv[0] for kv in prefix], [kv[1] for kv in prefix], not number),
            tokens,
            len(slots),
        )
        for number, (prefix, tokens) in enumerate(zip(prefixes, users, strict=True))
    ]
    for use, start in zip(uses, starts, strict=False):
        use.start = start
    layout = PassLayout(
        heads, kernels, own, ints(slots), ints(places), ints(seen), uses, spans, case.is_step, position_of
    )
    query = random(numbers, heads.kv_heads * heads.group, len(slots), heads.dim, dtype=dtype)
    new = [
        torch.cat([mine[kind][:, row.before :] for row, mine in zip(scene.rows, rows, strict=True)], dim=1)
        for kind in (0, 1)
    ]
    scale = case.scale * heads.dim**-0.5
    in_pieces = {"cpu": 2400 * len(query)} if spans else {}  # long prompts are read in pieces
    with mock.patch.dict(partial_attention.SCORES, in_pieces):
        result = layout.attend(layer, query, new[0], new[1], scale, softmax)
    text_of = [text for row, text in zip(scene.rows, texts, strict=True) for _ in range(row.new)]
    for token, (text, position) in enumerate(zip(text_of, position_of, strict=True)):
        visible = slice(case.window.first_position(position) if case.window else 0, position + 1)
        wanted = one_softmax(query[:, token], text[0][:, visible], text[1][:, visible], heads, scale, softmax)
        off = float((result[token].double() - wanted).abs().max())
        assert off < TOLERANCE[dtype], f"token {token}, position {position}: off by {off}"
    for slot, mine in zip(slot_of, rows, strict=True):
        stored = own.read_stored_kv(layer, slot, mine[0].shape[1])
        wanted_rows = heads.encode_kv(layer, *map(heads.apply_hadamard_rotation_if_enabled, mine))
        coded, wanted_codes = (
            [some[:, heads.num_unquantized_first :] for some in both] for both in (stored, wanted_rows)
        )
        assert all(map(torch.equal, coded, wanted_codes)), f"what is stored in slot {slot}"
