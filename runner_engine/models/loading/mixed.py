"""Loading backend that quantizes linear layers one by one, each with the quantization config for its path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from runner_base import ConfigError
from runner_engine.checkpoints.experts import ExpertMatrix
from runner_engine.checkpoints.linear_layers import get_layer_path
from runner_engine.devices import heap
from runner_engine.experts import SeparateExperts, separate_all_experts
from runner_engine.models.load_target import LoadTarget
from runner_engine.models.loading import made_groups
from runner_engine.models.loading.contract import LoadingBackend
from runner_engine.models.loading.unquantizable_layers import find_unquantizable_layers
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.capabilities import LayerQuantizer
from runner_engine.quantization.load_time_groups import LoadTimeGroupsConfig
from runner_engine.quantization.quantization_mix import QuantizationMix


class Backend(LoadingBackend):
    """Loads an unquantized checkpoint into main memory, because it may not fit on the device before
    quantization.
    """

    def __init__(self, target: LoadTarget) -> None:
        super().__init__(target)
        self.device = torch.device("cpu")

    def quantize_after_load(self, model: Any) -> Any:
        """Quantize each linear layer with the quantization config for its path.

        Experts are already quantized, or stay unquantized.
        """
        experts = [
            get_layer_path(one)
            for one in self.resolved.files.tensors_with_split_experts
            if isinstance(one, ExpertMatrix)
        ]
        with heap.use_mmap_for_large_blocks():
            return quantize_layers(model, self.resolved.quantization_mix, self.target.device, experts)


def quantize_layers(
    model: Any, quantization_mix: QuantizationMix, device: torch.device, expert_paths: Iterable[str] = ()
) -> Any:
    """Move a model from main memory to the device, and quantize its linear layers there one by one.

    expert_paths: paths of expert matrices, which are quantized already.
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
    quantization_mix.check_quantization_patterns_match_layers(
        [*layers, *expert_paths, *of_experts], heads, tied
    )
    choices = {
        path: quantization_mix.select_layer_config(path, is_head=path in left_alone) for path in linear
    }
    plain = {path for path in heads if tied}
    for kind in quantization_mix.quantizing_configs:
        plain |= find_unquantizable_layers(
            kind, model, {path: linear[path] for path in layers if choices[path] == kind}, device.type
        )
    for path, layer in linear.items():
        if choices[path].packed and path not in plain:
            model.set_submodule(path, quantize_layer(choices[path], model, layer.to(device), path))
    return model.to(device)


def quantize_layer(
    config: QuantizationConfig, model: Any, layer: torch.nn.Module, path: str
) -> torch.nn.Module:
    try:
        if isinstance(config, LoadTimeGroupsConfig):
            return made_groups.quantize_linear(config, layer, path)
        return config.quantize_layer(model, layer) if isinstance(config, LayerQuantizer) else layer
    except (
        RuntimeError,
        ValueError,
        AssertionError,
        NotImplementedError,
    ) as error:  # a library's own conditions
        raise ConfigError(
            f"quantization={config.name} cannot quantize {path}: {error}", code="unsupported"
        ) from error


def separate_experts(model: Any) -> None:
    """Replace the fused experts of a loaded model by separate linear layers, so that they can be
    quantized.
    """
    separate_all_experts(model)


def _is_linear(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear or type(module).__name__ == "Conv1D"
