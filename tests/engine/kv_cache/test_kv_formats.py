"""Formats of keys and values: what the key takes, what is stored bit for bit, and controls that
must fail."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from attending import heads_for, ints, kernels_or_none, random
from passes import CASES, as_stored, check_pass
from raising import raises

from runner_base.errors import Code, ConfigError
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.kernels import native
from runner_engine.kv_cache import KvCacheSpec, create_kv_store, rotation
from runner_engine.kv_cache.formats import int4
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import SHORT_NAMES, KvCache, KvPrecision

MAPPING = "{keys: int8, values: int4, rotate: false, layers: {-1: as_model, 0: int8}}"
FIRST = "{keys: int4, values: int4, rotate: true, first_tokens: as_model}"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])


@pytest.fixture
def kernels() -> native.Kernels:
    found = kernels_or_none("kernels")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *((name, name) for name in SHORT_NAMES),
        ({"keys": "int8", "values": "int8"}, "int8"),
        ({"keys": "int4", "values": "int4"}, "int4"),
        ({"values": "int4", "keys": "int8"}, "k8v4"),
        ({"keys": "as_model"}, "as_model"),
        ({"keys": "int8", "values": "int8", "rotate": True}, "int8_rotated"),
        ({"values": "int8"}, "{keys: as_model, values: int8, rotate: false}"),
        ({"keys": "int8", "values": "int4", "rotate": False, "layers": {0: "int8", -1: "as_model"}}, MAPPING),
        (MAPPING, MAPPING),
        ({"keys": "int4", "values": "int4", "first_tokens": "as_model"}, FIRST),
        (FIRST, FIRST),
    ],
)
def test_a_value_has_one_text(given: object, said: str) -> None:
    assert str(KvCache.parse(given)) == said
    assert GenerationConfig(kv_cache=given).kv_cache == said
    assert KvCache.parse(said) == KvCache.parse(given)


@pytest.mark.parametrize(
    ("given", "code", "value", "why"),
    [
        ("int3", "unknown_choice", "int3", r"^must be one of as_model, int8, int8_rotated, int4, k8v4, or {keys: …"),
        ({"key": "int8"}, "unknown_choice", "{key: int8}", r"no key key\."),
        ({"keys": "fp8"}, "unknown_choice", "{keys: fp8}", r"'fp8' .* as_model, int8, int4\."),
        ({"keys": "int8", "rotate": "yes"}, "bad_value", "{keys: int8, rotate: yes}", r"^rotate .* true or false.* 'yes'\."),
        ({"rotate": True}, "no_effect", "{rotate: True}", r"^rotate "),
        ({"first_tokens": "as_model"}, "no_effect", "{first_tokens: as_model}", r"^first_tokens "),
        ({"keys": "int8", "first_tokens": "int8"}, "bad_value", "{keys: int8, first_tokens: int8}", r"^first_tokens .* as_model.* 'int8'\."),
        ({"keys": "int8", "layers": [0]}, "bad_value", "{keys: int8, layers: [0]}", r"^layers .*{NUMBER: FORMAT, …}.* \[0\]\."),
        ("{keys: [", "unknown_choice", "{keys: [", r"^must be one of "),
    ],
)  # fmt: skip
def test_mistakes_are_one_message(given: object, code: Code, value: str, why: str) -> None:
    with raises(ConfigError, code, "generation.kv_cache") as raised:
        GenerationConfig(kv_cache=given)
    assert raised.value.value == value
    assert re.search(why, raised.value.reason)
    assert "\n" not in str(raised.value)


def test_a_layer_that_a_model_does_not_have_is_refused() -> None:
    of = KvCache.parse({"keys": "int8", "layers": {4: "as_model"}})
    of.check_layers(5)
    with raises(ConfigError, "bad_value", "generation.kv_cache"):
        of.check_layers(4)


@DTYPES
@pytest.mark.parametrize("dim", [16, 64, 80, 128])
@pytest.mark.parametrize("kv_cache", [KvCache.int4, KvCache.k8v4, KvCache.parse(MAPPING)], ids=str)
def test_kernels_and_torch_store_the_same_bits(
    kernels: native.Kernels, kv_cache: KvCache, dim: int, dtype: torch.dtype
) -> None:
    heads = replace(heads_for("kernels", 3, 3, 1, dim, dtype), kv_cache=kv_cache)
    generator = torch.Generator().manual_seed(dim)
    own, other = create_kv_store(heads, kernels, [40, 40]), create_kv_store(heads, kernels, [50])
    for layer in (1, 2):
        keys, values = (random(generator, 37, 3, dim, dtype=dtype) * 5 for _ in range(2))
        keys[3, 1], keys[5, 2, 7], keys[6, 0, 0], values[4] = 0.0, torch.nan, torch.inf, 1e-38
        order = torch.randperm(37, generator=generator)
        own.write(layer, keys[order], values[order], ints([1] * 37), order.int())
        stored = own.read_stored_kv(layer, 1, 37)
        expected = heads.encode_kv(layer, keys.transpose(0, 1), values.transpose(0, 1))
        for found, wanted, of in zip(stored, expected, heads.get_layer_kv_formats(layer), strict=True):
            numbers = (of.decode_kv(some, dim, torch.float32) for some in (found, wanted))
            assert torch.equal(*(some.nan_to_num(-1.0, -2.0, -3.0) for some in numbers))
        other.write_stored(layer, *stored)
        for copied, given in zip(other.read_stored_kv(layer, 0, 37), stored, strict=True):
            assert torch.equal(copied.nan_to_num(-1), given.nan_to_num(-1))
    assert not bool(own.read(0, 1, 37)[0].any()), "no neighbour is touched"
    assert not bool(own.read(1, 0, 37)[0].any())


def test_four_bits_use_all_their_steps_and_are_near() -> None:
    numbers = torch.randn(50, 3, 80, generator=torch.Generator().manual_seed(0))
    rows = int4.encode_kv(numbers)
    assert rows.shape[-1] == int4.stored_width(80) == 3 * 18
    read = int4.decode_kv(rows, 80, torch.float32)
    most = torch.nn.functional.pad(numbers, (0, 16)).unflatten(-1, (3, 32)).abs().amax(-1)
    step = (most / 8).repeat_interleave(32, dim=-1)[..., :80]
    assert bool(((read - numbers).abs() <= step * 1.01).all())
    assert float(((read - numbers).abs() / step).mean()) < 0.3, "half a step at most, but for the largest"
    codes = rows[..., :48]
    assert {*(codes << 4 >> 4).unique().tolist()} == set(range(-8, 8))


@DTYPES
@pytest.mark.parametrize(("dim", "piece"), [(64, 64), (80, 16), (96, 32), (112, 16), (128, 128)])
def test_a_rotation_is_undone_by_itself(
    kernels: native.Kernels, dim: int, piece: int, dtype: torch.dtype
) -> None:
    assert rotation.rotation_block_size(dim) == piece
    heads = replace(heads_for("kernels", 1, 3, 1, dim, dtype), kv_cache=KvCache.int4)
    given = random(torch.Generator().manual_seed(dim), 5, 3, dim, dtype=dtype)
    given[0, 0, 0] = 100.0
    turned = heads.apply_hadamard_rotation_if_enabled(given)
    assert torch.equal(heads.apply_hadamard_rotation_if_enabled(given, kernels), turned), (
        "C has the same bits"
    )
    assert float(turned[0, 0].abs().max()) < 60, "one large number is spread"
    assert torch.allclose(
        rotation.apply_hadamard_rotation(turned).float(),
        given.float(),
        atol=1e-4 if dtype is torch.float32 else 1,
    )
    exact = given.double() @ given.double().mT
    assert torch.allclose((turned.double() @ turned.double().mT), exact, rtol=1e-5 if dtype is torch.float32 else 0.05,
                          atol=1e-3 if dtype is torch.float32 else 5.0)  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["kernels", "torch"])
def test_a_rotation_that_is_not_undone_fails(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what is read must be rotated back."""
    check_pass(CASES["decoding 3x3x64"], "f32 in int4", way)
    turned, calls = KvCacheSpec.apply_hadamard_rotation_if_enabled, []

    def three_of_four(heads: KvCacheSpec, given: torch.Tensor, kernels: Any = None) -> torch.Tensor:
        calls.append(given)
        is_result = given.dim() == 3 and given.shape[1] == heads.kv_heads * heads.group
        return given if is_result else turned(heads, given, kernels)

    monkeypatch.setattr(KvCacheSpec, "apply_hadamard_rotation_if_enabled", three_of_four)
    with pytest.raises(AssertionError, match="off by"):
        check_pass(CASES["decoding 3x3x64"], "f32 in int4", way)
    assert calls


@pytest.mark.parametrize("form", ["f32 in int4", "f32 in int8"])
def test_a_scale_of_another_head_fails(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the scales of the head before, the pass is not what one softmax gives."""
    import passes

    def shifted(heads: KvCacheSpec, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Any:
        read = as_stored(heads, layer, keys, values)
        sizes = [some.abs().amax(dim=-1, keepdim=True).clamp_min(1e-9) for some in read]
        return tuple(some * (size.roll(1, 0) / size) for some, size in zip(read, sizes, strict=True))

    monkeypatch.setattr(passes, "as_stored", shifted)
    with pytest.raises(AssertionError, match="off by"):
        check_pass(CASES["decoding 3x3x64"], form, "kernels")


@pytest.mark.parametrize("kv_cache", [*SHORT_NAMES.values(), KvCache.parse(MAPPING)], ids=str)
@pytest.mark.parametrize("dim", [64, 80])
def test_the_plan_counts_what_is_stored(kv_cache: KvCache, dim: int) -> None:
    settings = {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": dim}
    heads = replace(heads_for("kernels", 3, 2, 3, dim, torch.bfloat16), kv_cache=kv_cache)
    planned = compute_kv_size(settings, 2, kv_cache, head_dim_multiple=16).token_bytes
    assert planned == heads.bytes_per_token
    for way in ("kernels", "torch"):
        own = create_kv_store(heads, kernels_or_none(way), [160])
        assert sum(tensor.nbytes for tensor in own.get_slot_tensors(0)) == 160 * planned


def test_four_bits_take_a_quarter() -> None:
    sizes = {name: compute_kv_size({"num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 64}, 2, one).token_bytes
             for name, one in SHORT_NAMES.items()}  # fmt: skip
    assert sizes == {"as_model": 256, "int8": 136, "int8_rotated": 136, "int4": 72, "k8v4": 104}
    assert KvPrecision.int4 in (KvCache.k8v4.values,)
