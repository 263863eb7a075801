"""How much of a loaded model is quantized, in parameters, whatever class of layers holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear, numbers_in_blocks
from runner_engine.models.held_bytes import held_bytes
from runner_engine.quantization.mixed import Mix
from runner_engine.quantization.share import Share

KindOf = Callable[[nn.Module], str]


def share_of(model: nn.Module, kind_of: KindOf, mix: Mix) -> tuple[Share, dict[str, int]]:
    """Return the share that is quantized, and the numbers in each matrix that is not; tied ones
    count once.

    kind_of: the class of a quantized layer; empty for any other.
    """
    total = in_blocks = named = quantized = quantized_in_blocks = 0
    left: dict[str, int] = {}
    for path, numbers, is_quantized, is_matrix in _counted(model, kind_of):
        is_in_block = bool(IN_A_BLOCK.search(f"{path}."))
        total += numbers
        in_blocks += numbers * is_in_block
        quantized += numbers * is_quantized
        quantized_in_blocks += numbers * (is_quantized and is_in_block)
        if is_quantized:
            continue
        if is_in_block and mix.base.is_mixed and not mix.choice_for(path).packed:
            named += numbers
        if is_matrix:
            left[path] = left.get(path, 0) + numbers
    of_quantized = held_bytes(_quantized_tensors(model, kind_of)).total()
    of_all = held_bytes([*model.parameters(), *model.buffers()]).total()
    return Share(quantized, total, quantized_in_blocks, in_blocks, named, of_quantized, of_all), left


def _quantized_tensors(model: nn.Module, kind_of: KindOf) -> Iterator[Any]:
    """Yield all that quantized layers hold but their biases."""
    for module in model.modules():
        if kind_of(module):
            own = [*module._parameters.items(), *module._buffers.items()]
            yield from (held for name, held in own if name != "bias" and held is not None)


def _counted(model: nn.Module, kind_of: KindOf) -> Iterator[tuple[str, int, bool, bool]]:
    """Yield the path, the numbers, whether they are quantized and whether they are a matrix, of
    each own parameter."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        is_quantized = bool(kind_of(module))
        own = {name: value for name, value in module._parameters.items() if value is not None}
        if is_quantized and own:
            weight = (
                module.weight if isinstance(module, nn.Linear | nn.Embedding) else next(iter(own.values()))
            )
            if id(weight) not in seen:
                yield path, _numbers(module, own), True, True
            seen |= {id(value) for value in own.values() if value is not module._parameters.get("bias")}
        for value in own.values():
            if id(value) not in seen:
                seen.add(id(value))
                yield path, int(value.numel()), False, value.dim() > 1


def _numbers(layer: Any, own: dict[str, nn.Parameter]) -> int:
    """Return how many numbers a quantized layer stands for."""
    if isinstance(layer, GgufLinear | GgufEmbedding):
        return numbers_in_blocks(layer)
    if isinstance(layer, nn.Linear):
        return int(layer.in_features * layer.out_features)
    return sum(int(value.numel()) for name, value in own.items() if name != "bias")
