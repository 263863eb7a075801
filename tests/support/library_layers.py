"""Quantized layers as bitsandbytes and torchao make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base import processor
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul.layer_weights import QuantizedWeights, compute_shift_correction


def layer_of(kind: str, inputs: int, outputs: int, bias: bool, **keys: Any) -> Any:
    """A real layer of the library's, with random weights unless some are given."""
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    torch.manual_seed(inputs + outputs)
    weight = keys.get("weight", torch.randn(outputs, inputs, dtype=torch.bfloat16) / inputs**0.5)
    if kind == "int8":
        layer: Any = Linear8bitLt(
            inputs, outputs, bias, has_fp16_weights=False, threshold=keys.get("threshold", 6.0)
        )
        layer.weight = Int8Params(weight, has_fp16_weights=False, requires_grad=False)
    elif kind == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        layer = nn.Linear(inputs, outputs, bias, dtype=torch.bfloat16)
        layer.weight.data = weight
        quantize_(layer, Int8WeightOnlyConfig())
    else:
        dtype = keys.get("compute_dtype", torch.bfloat16)
        layer = Linear4bit(inputs, outputs, bias, dtype, keys.get("double_quant", True), kind)
        # as the runner loads it
        layer.support_avx512bf16_for_cpu &= processor.has_bfloat16_matmul()
        layer.weight = Params4bit(
            weight, False, quant_type=kind, compress_statistics=keys.get("double_quant", True)
        )
    layer = layer.to("cpu").eval()
    if bias:
        layer.bias.data = torch.randn(outputs, dtype=torch.bfloat16)
    return layer


def stored_four_bits(kind: str, inputs: int, outputs: int, bias: bool, **keys: Any) -> Any:
    """A layer that the library leaves as it is stored, also on a processor where it would pack
    it."""
    layer = layer_of(kind, inputs, outputs, bias, **keys)
    layer.support_avx512bf16_for_cpu = False
    return layer


def row_int8(layer: Any) -> QuantizedWeights:
    """Return the weights of a layer of LLM.int8(), after its first pass."""
    state = layer.state
    weights = QuantizedWeights(
        WeightFormat.row_int8, layer.in_features, layer.out_features, (torch.bfloat16,)
    )
    weights.matrix.threshold = state.threshold
    weights.set_tensors_read_by_c(
        state.CB, layer.bias, state.SCB.float().contiguous(), compute_shift_correction(state.CB)
    )
    return weights


def weight_int8(layer: Any) -> QuantizedWeights:
    """Return the weights of a layer of torchao's, int8 by output."""
    weights = QuantizedWeights(
        WeightFormat.weight_int8, layer.in_features, layer.out_features, (torch.bfloat16,)
    )
    scale = layer.weight.scale.to(torch.bfloat16).flatten().contiguous()
    weights.set_tensors_read_by_c(layer.weight.qdata, layer.bias, scale)
    return weights
