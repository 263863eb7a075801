"""Rows with more keys than a piece: in every format of the KV cache, and behind windows, caps, sinks and latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attending import ints, kernels_or_none, random
from forward_pass import read_rows, with_fast_kernels
from passes import as_read, one_softmax

from runner_base.dtypes import Dtype
from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import Scaling
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES, OWN_PIECE
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.local.engine import LocalEngine
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is in pieces"
)
CODES: dict[str, dict[str, Any]] = {
    "int8": {"keys": "int8", "values": "int8"},
    "int8_rotated": {"keys": "int8", "values": "int8", "rotate": True},
    "int4": {"keys": "int4", "values": "int4"},
    "k8v4": {"keys": "int8", "values": "int4"},
    "keys in int4": {"keys": "int4"},
    "values in int4": {"values": "int4"},
}
FIRST: dict[bool, dict[str, Any]] = {False: {}, True: {"first_tokens": "as_model"}}
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03}  # of the largest number
# so much of what all queries have in common is in the first keys, as in real models
LAYER, DIM, TO_FIRST = (1, 64, 0.6)
ROWS = {  # how many places each has, and whether it begins a text
    "one row": [(2500, True)],
    "several rows": [(2500, True), (1030, True), (40, True), (2500, False), (3 * OWN_PIECE + 16, True)],
}


@dataclass(frozen=True)
class StoredRows:
    """Rows whose keys and values of a layer are stored, and a query for each."""

    own: KvStore
    query: torch.Tensor  # [row, H, D]
    keys: list[torch.Tensor]  # [KVH, places, D] of each row, not yet stored
    values: list[torch.Tensor]


def stored_rows(heads: KvCacheSpec, rows: list[tuple[int, bool]]) -> StoredRows:
    """Store the keys and values of rows."""
    chance = torch.Generator().manual_seed(3)
    own = create_kv_store(heads, kernels_or_none("kernels"), [places for places, _ in rows])
    common = random(chance, DIM, dtype=heads.dtype)
    query = common + 0.3 * random(chance, len(rows), heads.kv_heads * heads.group, DIM, dtype=heads.dtype)
    found = StoredRows(own, query, [], [])
    for slot, (places, is_beginning) in enumerate(rows):
        keys, values = (random(chance, heads.kv_heads, places, DIM, dtype=heads.dtype) for _ in range(2))
        keys[:, :LANES] += TO_FIRST * common
        own.set_text_start(slot, is_beginning)
        turned = [
            heads.apply_hadamard_rotation_if_enabled(some.transpose(0, 1).contiguous())
            for some in (keys, values)
        ]
        own.write(LAYER, turned[0], turned[1], ints([slot] * places), ints([*range(places)]))
        found.keys.append(keys)
        found.values.append(values)
    return found


def attended(heads: KvCacheSpec, stored: StoredRows, rows: list[int]) -> torch.Tensor:
    """Return what some rows find [row, H, D]."""
    kernels = kernels_or_none("kernels")
    assert kernels is not None
    places = OwnKeyRanges(stored.own, ints(rows), ints([stored.keys[row].shape[1] for row in rows]))
    query = heads.apply_hadamard_rotation_if_enabled(stored.query[rows].clone(), kernels)
    found = run_unshared_key_attention_kernel(kernels, heads, Scaling(DIM**-0.5, 0.0), LAYER, query, places)
    return heads.apply_hadamard_rotation_if_enabled(found, kernels)


def of_wrong_kernels(
    heads: KvCacheSpec, keys: torch.Tensor, values: torch.Tensor
) -> list[list[torch.Tensor]]:
    """Return keys and values as kernels would see them that make a mistake with pieces."""
    second = slice(OWN_PIECE, OWN_PIECE + LANES)
    left_out = [torch.cat((some[:, :OWN_PIECE], some[:, 2 * OWN_PIECE :]), dim=1) for some in (keys, values)]
    wrong = [left_out]
    if heads.num_unquantized_first:
        first_again, first_missed = ([keys.clone(), values.clone()] for _ in range(2))
        for again, missed in zip(first_again, first_missed, strict=True):
            again[:, second] = again[:, :LANES]
            missed[:, :LANES] = 0
        wrong += [first_again, first_missed]
    return wrong


@pytest.mark.sampled(31)
@pytest.mark.parametrize("rows", list(ROWS))
@pytest.mark.parametrize("has_first", [False, True], ids=["", "first plain"])
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=["f32", "bf16"])
@pytest.mark.parametrize("codes", list(CODES))
def test_every_format_is_one_softmax(codes: str, dtype: torch.dtype, has_first: bool, rows: str) -> None:
    kv_cache = KvCache.parse(CODES[codes] | FIRST[has_first])
    heads = KvCacheSpec(2, 2, 3, DIM, dtype, torch.device("cpu"), kv_cache=kv_cache)
    plain = replace(heads, kv_cache=KvCache.as_model)
    stored, together = stored_rows(heads, ROWS[rows]), list(range(len(ROWS[rows])))
    found = attended(heads, stored, together)
    for row, (places, is_beginning) in enumerate(ROWS[rows]):
        assert torch.equal(attended(heads, stored, [row])[0], found[row]), "bits depend on the rows beside it"
        keys, values = as_read(heads, LAYER, [stored.keys[row], stored.values[row]], is_beginning)
        wanted = one_softmax(stored.query[row], keys, values, plain, DIM**-0.5)
        most = ROUNDING[dtype] * wanted.abs().max()
        assert (found[row] - wanted).abs().max() <= most
        if places < 2 * OWN_PIECE or not is_beginning:
            continue
        for wrong in of_wrong_kernels(heads, keys, values):
            other = one_softmax(stored.query[row], wrong[0], wrong[1], plain, DIM**-0.5)
            assert (found[row] - other).abs().max() > 4 * most


SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
# else a tiny Gemma repeats its last token for ever
LIVELY = {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # windows that end within a piece, or hide some
    "window": ("mistral", {"sliding_window": OWN_PIECE + 500}),
    "cap": ("gemma2", SLIDING | LIVELY | {"sliding_window": 600, "attn_logit_softcapping": 1.0}),
    "sinks": ("gpt_oss", SLIDING | {"sliding_window": 24}),
    "latents": ("deepseek_v3", {}),
    "narrow values": ("deepseek_v3", {"v_head_dim": 8}),
}
PROMPTS = (OWN_PIECE + 300, 40, 2 * OWN_PIECE + 450)


@pytest.mark.thorough
@pytest.mark.parametrize("case", list(FAMILIES))
def test_layers_of_other_kinds_are_as_by_torch(
    case: str, opened: Callable[..., LocalEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, keys = FAMILIES[case]
    sizes = families.OVERRIDES.get(family, {}) | {"max_position_embeddings": 4 * OWN_PIECE} | keys
    monkeypatch.setitem(families.OVERRIDES, family, sizes)
    families.build(family, tmp_path / family)
    model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=Dtype.float32)
    loaded, heads, fused = with_fast_kernels(opened(model=model))
    assert fused is not None
    prompts = [
        torch.randint(3, 90, (length,), generator=torch.Generator().manual_seed(1)).tolist()
        for length in PROMPTS
    ]
    by_torch, by_kernels = Forward(loaded.model, heads), Forward(loaded.model, heads)
    by_torch.kernels, by_torch.short_span = None, 1
    logits = {}
    for forward in (by_torch, by_kernels):
        own, rows, _ = read_rows(forward, prompts)
        forward.fused = fused if forward is by_kernels else None
        logits[forward is by_kernels] = forward.step(own, rows, forward.list_shared_prefixes(rows)).float()
    spread = logits[False].std()
    assert (logits[True] - logits[False]).abs().max() <= 1e-4 * spread
    own.get_slot_tensors(2)[1][:, 2 * OWN_PIECE - 400 : 2 * OWN_PIECE - 80] = (
        0  # keys of the second piece, in the second layer
    )
    changed = by_kernels.step(own, rows, by_kernels.list_shared_prefixes(rows)).float()
    assert (changed[2] - logits[False][2]).abs().max() > 1e-3 * spread
