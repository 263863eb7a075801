"""Measures which share of a loaded model's parameters is quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear, count_encoded_weights
from runner_engine.models.tensor_bytes import count_tensor_bytes
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.quantization.quantized_share import QuantizedShare

ClassNameGetter = Callable[[nn.Module], str]


def measure_quantized_share(
    model: nn.Module, get_quantized_class_name: ClassNameGetter, quantization_mix: QuantizationMix
) -> tuple[QuantizedShare, dict[str, int]]:
    """Return the quantized share of a model, and the number of weights of each unquantized matrix.

    Tied weights count once. get_quantized_class_name: returns the class name of a quantized layer, or
    an empty string for any other layer.
    """
    total = in_blocks = named = quantized = quantized_in_blocks = 0
    left: dict[str, int] = {}
    for path, numbers, is_quantized, is_matrix in _iter_parameter_sizes_and_quantization(
        model, get_quantized_class_name
    ):
        is_in_block = bool(IN_A_BLOCK.search(f"{path}."))
        total += numbers
        in_blocks += numbers * is_in_block
        quantized += numbers * is_quantized
        quantized_in_blocks += numbers * (is_quantized and is_in_block)
        if is_quantized:
            continue
        if (
            is_in_block
            and quantization_mix.base.is_mixed
            and not quantization_mix.select_layer_config(path).packed
        ):
            named += numbers
        if is_matrix:
            left[path] = left.get(path, 0) + numbers
    of_quantized = count_tensor_bytes(_iter_quantized_tensors(model, get_quantized_class_name)).total()
    of_all = count_tensor_bytes([*model.parameters(), *model.buffers()]).total()
    return QuantizedShare(quantized, total, quantized_in_blocks, in_blocks, named, of_quantized, of_all), left


def _iter_quantized_tensors(model: nn.Module, quantized_class_name: ClassNameGetter) -> Iterator[Any]:
    """Yield all tensors of the quantized layers except biases."""
    for module in model.modules():
        if quantized_class_name(module):
            own = [*module._parameters.items(), *module._buffers.items()]
            yield from (held for name, held in own if name != "bias" and held is not None)


def _iter_parameter_sizes_and_quantization(
    model: nn.Module, get_quantized_class_name: ClassNameGetter
) -> Iterator[tuple[str, int, bool, bool]]:
    """Yield for each parameter: path, number of weights, whether quantized, and whether a matrix."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        is_quantized = bool(get_quantized_class_name(module))
        own = {name: value for name, value in module._parameters.items() if value is not None}
        if is_quantized and own:
            weight = (
                module.weight if isinstance(module, nn.Linear | nn.Embedding) else next(iter(own.values()))
            )
            if id(weight) not in seen:
                yield path, _count_weights_without_bias(module, own), True, True
            seen |= {id(value) for value in own.values() if value is not module._parameters.get("bias")}
        for value in own.values():
            if id(value) not in seen:
                seen.add(id(value))
                yield path, int(value.numel()), False, value.dim() > 1


def _count_weights_without_bias(layer: Any, parameters: dict[str, nn.Parameter]) -> int:
    if isinstance(layer, GgufLinear | GgufEmbedding):
        return count_encoded_weights(layer)
    if isinstance(layer, nn.Linear):
        return int(layer.in_features * layer.out_features)
    return sum(int(value.numel()) for name, value in parameters.items() if name != "bias")
