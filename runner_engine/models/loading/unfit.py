"""Linear layers of a loaded model that a choice of quantization cannot take: a few of
them stay plain."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK
from runner_engine.experts import numbers_left_out
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.capabilities import ChecksSizes
from runner_engine.quantization.share import check_unfit


def reason_of(choice: QuantizationConfig, layer: nn.Module, device: str) -> str:
    """Say why a layer cannot be quantized; empty if it can."""
    if not isinstance(choice, ChecksSizes):
        return ""
    outputs, inputs = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    if outputs is None or inputs is None:  # GPT-2's linear layer has its weight the other way round
        inputs, outputs = layer.weight.shape  # type: ignore[misc]
    return choice.unfit(int(outputs), int(inputs), device)


def leave_unfit(
    choice: QuantizationConfig, model: nn.Module, layers: Mapping[str, nn.Module], device: str = "cpu"
) -> set[str]:
    """Return the paths of layers that cannot be quantized; ConfigError if they are more than a
    few."""
    unfit = {
        path: (reason, _numbers(layer))
        for path, layer in layers.items()
        if (reason := reason_of(choice, layer, device))
    }
    in_blocks = sum(one.numel() for path, one in model.named_parameters() if IN_A_BLOCK.search(path))
    check_unfit(choice.name, unfit, in_blocks + numbers_left_out(model))
    return set(unfit)


def _numbers(layer: nn.Module) -> int:
    return int(layer.weight.numel())  # type: ignore[operator]
