"""Finds linear layers whose shape a quantization format does not support. A few of them may stay
unquantized.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK
from runner_engine.experts import count_omitted_weights
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.capabilities import SizeChecker
from runner_engine.quantization.quantized_share import check_few_unquantizable


def find_unquantizable_reason(config: QuantizationConfig, layer: nn.Module, device: str) -> str:
    """Return the reason why a layer cannot be quantized, or an empty string if it can."""
    if not isinstance(config, SizeChecker):
        return ""
    outputs, inputs = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    if outputs is None or inputs is None:  # GPT-2's linear layer has its weight the other way round
        inputs, outputs = layer.weight.shape  # type: ignore[misc]
    return config.find_unquantizable_reason(int(outputs), int(inputs), device)


def find_unquantizable_layers(
    config: QuantizationConfig, model: nn.Module, layers: Mapping[str, nn.Module], device: str = "cpu"
) -> set[str]:
    """Return the paths of layers that cannot be quantized. Raises ConfigError if there are too many."""
    unfit = {
        path: (reason, _count_weights(layer))
        for path, layer in layers.items()
        if (reason := find_unquantizable_reason(config, layer, device))
    }
    in_blocks = sum(one.numel() for path, one in model.named_parameters() if IN_A_BLOCK.search(path))
    check_few_unquantizable(config.name, unfit, in_blocks + count_omitted_weights(model))
    return set(unfit)


def _count_weights(layer: nn.Module) -> int:
    return int(layer.weight.numel())  # type: ignore[operator]
