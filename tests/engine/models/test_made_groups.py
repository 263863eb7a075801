"""Integers in groups that are made while loading: the libraries' own numbers, held in as many bits,
counted, predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_peft
from intx_configs import INTX, class_of, intx_config
from loading import check_predicted_bytes, configure, load, logits, off
from opening import check_format
from raising import raises
from torch import nn
from transformers import AutoModelForCausalLM, TorchAoConfig

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError, DataError
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.loading import made_groups
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.quantization.load_time_groups import BITS, LoadTimeGroupsConfig
from runner_engine.quantization.torchao import TorchaoIntxConfig
from runner_engine.settings.lora import PeftConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]
DTYPES = (torch.float32, torch.bfloat16)


def published(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, scales and zero points in float32, by the formulas of hqq 0.2.8 for groups
    along inputs.

    The package itself cannot stand here: where it is installed, transformers imports it, and with
    it torch's compiler.
    """
    plain, most = weight.float().reshape(-1, group), 2**bits - 1
    low, high = plain.min(1, keepdim=True)[0], plain.max(1, keepdim=True)[0]
    denominator = high - low
    scale = most / denominator
    scale = torch.where(denominator.abs() <= 1e-4, torch.full_like(scale, 1.0), scale).clamp(max=2e4)
    zero, best = -low * scale, torch.tensor(torch.inf)
    if bits == 4:  # BaseQuantizeConfig has round_zero for 4 bits alone
        zero = torch.round(zero)
    for _ in range(20):
        codes = torch.round(plain * scale + zero).clamp(0, most)
        unpacked = (codes - zero) / scale
        off = plain - unpacked
        shrunk = torch.sign(off) * torch.relu(off.abs() - (1.0 / 1e1) * off.abs().pow(0.7 - 1))
        zero = torch.mean(codes - (plain - shrunk) * scale, dim=1, keepdim=True)
        error = (plain - unpacked).abs().mean()
        if error < best:
            best = error
        else:
            break
    codes = torch.round(plain * scale + zero).clamp(0, most)
    return (
        codes.reshape(weight.shape),
        (1.0 / scale).reshape(len(weight), -1),
        zero.reshape(len(weight), -1),
    )


# ---------------------------------------------------------------------------------- as the
# libraries make them


@pytest.mark.sampled(4)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(96, 256, 64), (7, 320, 32), (64, 128, 128)])
def test_hqqs_numbers_are_those_of_the_published_formulas_bit_for_bit(
    bits: int, dtype: torch.dtype, outputs: int, inputs: int, group: int
) -> None:
    weight = (torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(bits)) * 0.05).to(dtype)
    weight[0, :group] = 0.25  # a group whose numbers are all the same
    weight[1, 3] = 2.0  # and one with an outlier
    codes, scales, zeros = published(weight, bits, group)
    made = HqqConfig(bits=bits, group_size=group).quantize_weight(weight)
    assert torch.equal(made.codes, codes.to(torch.uint8))
    assert torch.equal(made.scales, scales.to(dtype))
    assert torch.equal(made.zeros, zeros.to(dtype))


def test_hqq_finds_zero_points_with_a_smaller_error_than_rounding_has() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    made = HqqConfig(bits=3).quantize_weight(weight)
    groups = weight.reshape(64, -1, 64)
    scale = (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / 7
    rounded = ((groups - groups.amin(2, keepdim=True)) / scale).round() * scale + groups.amin(2, keepdim=True)
    ours = (made.codes.reshape(groups.shape) - made.zeros.unsqueeze(2)) * made.scales.unsqueeze(2)
    assert (ours - groups).abs().mean() < (rounded - groups).abs().mean()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_layer_by_hqq_computes_with_the_published_weights(bits: int) -> None:
    layer, rows = nn.Linear(256, 96), torch.randn(5, 256)
    codes, scales, zeros = published(layer.weight.detach(), bits, 64)
    weight = (codes.reshape(96, -1, 64) - zeros.unsqueeze(2)) * scales.unsqueeze(2)
    with torch.no_grad():
        ours = made_groups.quantize_linear(HqqConfig(bits=bits), layer, "layer")(rows)
        assert torch.allclose(
            ours, nn.functional.linear(rows, weight.reshape(96, 256), layer.bias), atol=1e-5
        )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("choice", INTX)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchaos_model_has_the_same_weights_and_logits(
    saved_family: Saved, choice: TorchaoIntxConfig, dtype: torch.dtype
) -> None:
    folder = saved_family()
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=TorchAoConfig(intx_config(choice))
    )
    ours = load(folder, choice, dtype=Dtype(str(dtype).removeprefix("torch.")))
    for path in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        layer, weight = (ours.model.get_submodule(path), theirs.get_submodule(path).get_parameter("weight"))
        assert torch.equal(layer.dequantize_outputs(0, layer.out_features, dtype), weight.dequantize())
    assert off(logits(ours.model), logits(theirs)) < (1e-5 if dtype is torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_rounded_as_torchao_does_it(dtype: torch.dtype) -> None:
    from torchao.quantization import quantize_

    choice, layer = TorchaoIntxConfig(int8_activations=True), nn.Linear(64, 32, bias=False).to(dtype)
    rows = torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[0] += 3  # no number is below 0
    rows[1, 2] = 0
    ours: Any = made_groups.quantize_linear(choice, layer, "layer")
    quantize_(layer, intx_config(choice))
    with torch.no_grad():
        assert torch.equal(ours(rows), layer(rows))
        assert not torch.equal(ours.round_activations(rows), rows)


# --------------------------------------------------------------------------------------- loaded as
# a whole model


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("choice", [HqqConfig(), HqqConfig(bits=3, group_size=32), *INTX])
def test_the_layers_are_counted_and_take_the_bytes_that_were_predicted(
    saved_family: Saved, tied: bool, dtype: Dtype, choice: LoadTimeGroupsConfig
) -> None:
    folder = saved_family(tied=tied)
    plain, made = (load(folder, dtype=dtype), load(folder, choice, dtype=dtype))
    assert made.metrics["quantized_modules"] == 14
    assert made.facts["quantized"].startswith(f"{choice.name}: ")
    assert made.facts["quantized"].endswith(f"(14 of 15 linear layers: 14 {class_of(choice)})")
    assert made.facts["left_alone"] in ("model.embed_tokens", "model.embed_tokens, lm_head")
    assert made.metrics["parameters"] == plain.metrics["parameters"]
    check_predicted_bytes(made, configure(folder, choice, dtype=dtype))
    layers = [one for one in made.model.modules() if isinstance(one, GroupedLinear)]
    codes = sum(one.weight.nbytes for one in layers)
    assert codes * 8 == choice.bits * sum(one.num_weights for one in layers)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [HqqConfig, TorchaoIntxConfig])
def test_fewer_bits_lose_more(saved_family: Saved, kind: Callable[..., LoadTimeGroupsConfig]) -> None:
    folder = saved_family()
    exact = logits(load(folder, dtype=Dtype.float32).model)
    lost = [off(logits(load(folder, kind(bits=bits), dtype=Dtype.float32).model), exact) for bits in BITS]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 3 * lost[2] > 9 * lost[-1] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("choice", [HqqConfig(bits=8), TorchaoIntxConfig(bits=8)])
def test_an_adapter_over_such_layers(
    saved_family: Saved, tmp_path: Path, choice: LoadTimeGroupsConfig
) -> None:
    folder = saved_family()
    lora = PeftConfig(path=str(save_peft(tmp_path / "adapter", folder)))
    base = load(folder, choice, dtype=Dtype.float32)
    plain = load(folder, dtype=Dtype.float32, lora=lora)
    both = load(folder, choice, dtype=Dtype.float32, lora=lora)
    assert (both.metrics["quantized_modules"], both.metrics["lora_modules"]) == (14, 4)
    assert off(logits(both.model), logits(plain.model)) < off(logits(both.model), logits(base.model))


# ------------------------------------------------------------------------------------------- errors


def test_keys_that_make_no_sense_are_refused() -> None:
    with raises(ConfigError, "unknown_choice", "quantization.bits"):
        HqqConfig(bits=7)
    with raises(ConfigError, "bad_value", "quantization.group_size"):
        HqqConfig(group_size=4)
    with raises(ConfigError, "bad_value", "quantization.group_size"):
        TorchaoIntxConfig(group_size=20)


@pytest.mark.parametrize("overrides", [{}, {"down_proj": {"name": "hqq", "group_size": 128}}])
def test_inputs_that_are_not_whole_groups_are_refused_before_the_load(
    saved_family: Saved, overrides: dict[str, Any]
) -> None:
    choice = QuantizationConfig(overrides=overrides) if overrides else HqqConfig(group_size=128)
    with raises(ConfigError, "unsupported", "quantization") as refused:
        check_format(configure(saved_family(), choice))
    assert "group_size=128" in str(refused.value)


def test_a_weight_that_is_not_finite_is_named() -> None:
    layer = nn.Linear(64, 8)
    layer.weight.data[3, 5] = float("nan")
    with raises(DataError, "damaged") as raised:
        made_groups.quantize_linear(HqqConfig(), layer, "up_proj")
    assert raised.value.reason.startswith("up_proj.weight: ")
