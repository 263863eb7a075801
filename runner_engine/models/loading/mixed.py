"""Quantizes the linear layers of a loaded plain model one by one, each as its mix says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from runner_base import ConfigError
from runner_engine.checkpoints.experts import ExpertMatrix
from runner_engine.checkpoints.linear_layers import layer_of
from runner_engine.devices import heap
from runner_engine.experts import SeparateExperts, separate_all
from runner_engine.models.loading import made_groups
from runner_engine.models.loading.contract import WayOfLoading
from runner_engine.models.loading.unfit import leave_unfit
from runner_engine.models.target import Target
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.capabilities import QuantizesLayers
from runner_engine.quantization.made_groups import MadeGroupsConfig
from runner_engine.quantization.mixed import Mix


class Way(WayOfLoading):
    """Plain, a model may be too large for its device, so that it is loaded into main memory."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.device = torch.device("cpu")

    def finish(self, model: Any) -> Any:
        """Quantize each layer as the mix says; those of experts have come in so, or stay fused."""
        experts = [layer_of(one) for one in self.resolved.files.matrices if isinstance(one, ExpertMatrix)]
        with heap.large_blocks_mapped():
            return apply(model, self.resolved.mix, self.target.device, experts)


def apply(model: Any, mix: Mix, device: torch.device, experts: Iterable[str] = ()) -> Any:
    """Quantize a model that is in main memory, layer by layer on the device, and move the rest
    there.

    experts: the paths of matrices of experts, which are what the mix says already.
    """
    from transformers.quantizers.base import get_keys_to_not_convert

    apart = {path for path, module in model.named_modules() if isinstance(module, SeparateExperts)}
    of_experts = {
        f"{path}.{name}"
        for path in apart
        for name, one in model.get_submodule(path).named_modules()
        if _is_linear(one)
    }
    linear = {path: one for path, one in model.named_modules() if _is_linear(one) and path not in of_experts}
    left_alone = set(get_keys_to_not_convert(model))  # the head, and what is tied to an embedding
    heads = [path for path in linear if path in left_alone]
    layers = [path for path in linear if path not in left_alone]
    embedding = model.get_input_embeddings()
    tied = any(linear[path].weight is getattr(embedding, "weight", None) for path in heads)
    mix.check_layers([*layers, *experts, *of_experts], heads, tied)
    choices = {path: mix.choice_for(path, is_head=path in left_alone) for path in linear}
    plain = {path for path in heads if tied}
    for kind in mix.choices:
        plain |= leave_unfit(
            kind, model, {path: linear[path] for path in layers if choices[path] == kind}, device.type
        )
    for path, layer in linear.items():
        if choices[path].packed and path not in plain:
            model.set_submodule(path, quantized(choices[path], model, layer.to(device), path))
    return model.to(device)


def quantized(choice: QuantizationConfig, model: Any, layer: torch.nn.Module, path: str) -> torch.nn.Module:
    """Return a plain linear layer of a model as a choice quantizes it."""
    try:
        if isinstance(choice, MadeGroupsConfig):
            return made_groups.layer_of(choice, layer, path)
        return choice.quantize_layer(model, layer) if isinstance(choice, QuantizesLayers) else layer
    except (
        RuntimeError,
        ValueError,
        AssertionError,
        NotImplementedError,
    ) as error:  # a library's own conditions
        raise ConfigError(
            f"quantization={choice.name} cannot quantize {path}: {error}", code="unsupported"
        ) from error


def take_experts_apart(model: Any) -> None:
    """Let each matrix of a loaded mixture's experts be a layer, which can be quantized like any
    other."""
    separate_all(model)


def _is_linear(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear or type(module).__name__ == "Conv1D"
