"""Optional capabilities of quantization choices: a choice has one if it defines its method."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from runner_engine.quantization.base import OwnLayers, QuantizationConfig

if TYPE_CHECKING:
    import torch


@runtime_checkable
class LayerQuantizer(Protocol):
    """Capability: quantizes single layers of a loaded model, for a mix. Others quantize whole models only."""

    def quantize_layer(self, model: torch.nn.Module, layer: torch.nn.Module) -> torch.nn.Module:
        """Return a linear layer in this format, perhaps the same object. Unsupported layers are unchanged."""


def can_quantize_layers(config_class: type[QuantizationConfig]) -> bool:
    """Whether a choice can quantize single layers of a loaded model."""
    return config_class.own_layers is OwnLayers.made_groups or issubclass(config_class, LayerQuantizer)


@runtime_checkable
class BlockFormat(Protocol):
    """Capability: reads a file whose blocks may stay quantized."""

    def get_block_config(self) -> QuantizationConfig | None:
        """Return the config for a file whose blocks stay quantized. None if they must not."""

    def check_dequantized_keys(self) -> None:
        """Raise ConfigError for keys that only apply to blocks that stay quantized."""


@runtime_checkable
class DeviceChecker(Protocol):
    """Capability: checks the device, because the library does not run on each."""

    def check_device(self, device: str) -> None:
        """Raise ConfigError for an unsupported device, before any weight is read."""


@runtime_checkable
class SizeChecker(Protocol):
    """Capability: checks layer sizes, because not all can be quantized."""

    def find_unquantizable_reason(self, outputs: int, inputs: int, device: str) -> str:
        """Return why a layer of this size cannot be quantized. Empty if it can."""


@runtime_checkable
class LoadedLayerChecker(Protocol):
    """Capability: checks loaded layers, because the library's kernels cannot compute all of them."""

    def check_loaded_layers(self, model: torch.nn.Module) -> None:
        """Reject layers that the kernels cannot compute, or change them so that they can."""


@runtime_checkable
class WeightProtector(Protocol):
    """Capability: protects weights while an adapter is applied to the model."""

    def protect_weights(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Context that protects the weights."""
