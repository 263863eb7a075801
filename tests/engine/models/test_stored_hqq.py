"""Checkpoints that HQQ has stored: read as they are, and refused by name where they are not what
they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hqq_checkpoints
import pytest
import torch
from hqq_checkpoints import Tensors
from loading import NONE, check_predicted_bytes, configure, load, logits
from opening import check_format
from raising import raises
from torch import nn
from transformers import AutoTokenizer

from runner_base.errors import ConfigError
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul.groups import find_kernel_problem
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.hqq import HqqLayout
from runner_engine.quantization import detect_stored_format
from runner_engine.quantization.hqq import HqqConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture
def saved(tmp_path: Path, tiny_llama: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny model as HQQ does."""

    def folder(**settings: Any) -> Path:
        hqq_checkpoints.save(tmp_path, **settings)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
        return tmp_path

    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("bits", "group"), [(8, 64), (6, 32), (4, 64), (3, 64), (2, 16)])
def test_it_is_what_the_same_numbers_made_here_are(
    saved: Saved, saved_family: Saved, bits: int, group: int
) -> None:
    choice = HqqConfig(bits=bits, group_size=group)
    made = load(saved_family(), choice)
    folder = saved(bits=bits, group=group)
    for wanted in (NONE, choice):
        loaded = load(folder, wanted)
        assert loaded.metrics["quantized_modules"] == 14
        assert "14 of 15 linear layers: 14 GroupedLinear)" in loaded.facts["quantized"]
        assert (
            loaded.facts["checkpoint"] == f"quantized already: hqq by hqq (bits={bits}, group_size={group})"
        )
        assert torch.equal(logits(loaded), logits(made))
        assert loaded.metrics["parameters"] == made.metrics["parameters"]
        check_predicted_bytes(loaded, configure(folder, wanted))


@pytest.mark.sampled(2)
@pytest.mark.skipif(native.load_kernels() is None, reason="the kernels are not built here")
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_kernels_multiply_it(bits: int) -> None:
    torch.manual_seed(0)
    like = nn.Linear(128, 75, bias=False).bfloat16()
    tensors = hqq_checkpoints.layer(like.weight.detach(), bits, 16)
    layer = GroupedLinear(like, HqqLayout(bits, 16, 128, 75), tensors)
    assert find_kernel_problem(layer, native.load_kernels()) is None
    rows = torch.randn(5, 128).bfloat16()
    expected = nn.functional.linear(rows, layer.dequantize_outputs(0, 75, torch.bfloat16))
    QuantizedLayers(nn.Sequential(layer), HeapTrimmer())
    with torch.no_grad():
        assert torch.allclose(layer(rows), expected, atol=1e-2)


def test_each_kind_of_layer_may_have_settings_of_its_own() -> None:
    three = {"weight_quant_params": {"nbits": 3, "group_size": 32, "axis": 1}}
    stored = hqq_checkpoints.stored()
    stored["quant_config"] = {
        "self_attn.q_proj": three,
        "mlp.up_proj": stored["quant_config"],
        "mlp.down_proj": None,
    }
    found = detect_stored_format({"quantization_config": stored})
    assert found is not None
    assert (found.name, found.bits, found.refusal) == ("hqq", 3, None)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"axis": 0}, "axis=0: the runner supports only groups along inputs"),
        ({"nbits": 1}, "nbits=1: the runner supports only 2, 3, 4, 5, 6, 8"),
        ({"nbits": 10**30}, "nbits=10+: the runner supports only"),
        ({"nbits": "4"}, "nbits='4': the runner supports only"),
        ({"group_size": -64}, "group_size=-64 must be null or an integer of at least 1"),
        ({"view_as_float": True}, "the runner does not support view_as_float or channel_wise=false"),
    ],
)
def test_a_variant_that_is_not_read_is_refused_before_the_load(
    saved: Saved, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_format(configure(saved(**params)))


@pytest.mark.parametrize("config", [None, {}, {"weight_quant_params": 4}, {"mlp.up_proj": {}}, [4]])
def test_a_config_without_settings_is_named(config: object) -> None:
    with raises(ConfigError, "damaged", "config.json"):
        detect_stored_format({"quantization_config": hqq_checkpoints.stored() | {"quant_config": config}})


def replaced(end: str, make: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        made = make(tensors.pop(f"{DOWN}.{end}"))
        tensors.update({} if made is None else {f"{DOWN}.{end}": made})

    return change


def with_number(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = number
        return tensor

    return change


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("end", "make", "words"),
    [
        (
            "W_q",
            lambda one: one[:-1],
            r"W_q: shape \[191, 64\], but a layer with 192 inputs and 128 outputs needs",
        ),
        (
            "W_q",
            lambda one: one.reshape(-1),
            r"W_q: the second dimension of the shape \[12288\] must divide the 192 inputs",
        ),
        (
            "W_q",
            lambda one: one.reshape(-1, 128),
            r"W_q: the second dimension of the shape \[96, 128\] must divide the 192 inputs",
        ),
        ("W_q", lambda one: one.to(torch.int64), "W_q: the dtype is I64, but U8 or I32 is expected"),
        ("scale", lambda one: one[1:], r"scale: shape \[383, 1\], but a layer with"),
        ("zero", lambda one: one.T, r"zero: shape \[1, 384\], but a layer with"),
        ("zero", lambda one: one.float(), "zero: zero points are F32, but scales are BF16"),
        ("scale", lambda one: one.to(torch.int8), "zero: zero points are BF16, but scales are I8"),
        ("scale", with_number(float("nan")), "scale: a scale is not finite"),
        ("zero", with_number(float("inf")), "zero: a zero point is not finite"),
        ("shape", with_number(64), r"shape: \[128, 64\], but \[128, 192\] expected"),
        ("axis", lambda one: one * 0, "axis: 0, but 1 expected"),
        ("nbits", lambda one: one + 4, "nbits: 8, but 4 expected"),
        (
            "packing",
            lambda one: one.expand(99, -1),
            r"packing: the tensor must be a scalar or a vector, but has the shape \[99, 7\]",
        ),
        ("zero", lambda _: None, "the checkpoint lacks zero of this layer"),
        ("W_q", lambda _: None, r"no layer uses .*\. The checkpoint lacks the matching W_q,"),
    ],
)
def test_damaged_tensors_are_named(
    saved: Saved, end: str, make: Callable[[torch.Tensor], torch.Tensor | None], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load(saved(change=replaced(end, make)))


def test_other_bits_than_the_checkpoints_are_refused(saved: Saved) -> None:
    with raises(ConfigError, "mismatch", "quantization") as raised:
        load(saved(), HqqConfig(bits=3))
    assert "quantization.bits=3 (the checkpoint has 4)" in raised.value.reason
