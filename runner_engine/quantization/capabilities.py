"""Optional capabilities of quantization choices, as protocols. A choice has a capability if it
defines its methods.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from runner_engine.quantization.base import OwnLayers, QuantizationConfig

if TYPE_CHECKING:
    import torch


@runtime_checkable
class LayerQuantizer(Protocol):
    """Capability of quantizing single layers of a loaded model."""

    def quantize_layer(self, model: torch.nn.Module, layer: torch.nn.Module) -> torch.nn.Module:
        """Return a linear layer quantized in this format. An unsupported layer is returned unchanged."""


def can_quantize_layers(config_class: type[QuantizationConfig]) -> bool:
    """Whether a quantization choice can quantize single layers of a loaded model."""
    return config_class.own_layers is OwnLayers.made_groups or issubclass(config_class, LayerQuantizer)


@runtime_checkable
class BlockFormat(Protocol):
    """Capability of keeping the quantized blocks of a .gguf file in memory."""

    def get_block_config(self) -> QuantizationConfig | None:
        """Return the config for blocks that stay quantized, or None if they must be dequantized."""

    def reject_int8_activations_if_dequantized(self) -> None:
        """Raise ConfigError if a config key is set that dequantized weights do not support."""


@runtime_checkable
class DeviceChecker(Protocol):
    """Capability of checking the device, because some quantization libraries support only certain devices."""

    def check_device(self, device: str) -> None:
        """Raise ConfigError for an unsupported device, before any weight is read."""


@runtime_checkable
class SizeChecker(Protocol):
    """Capability of checking layer sizes, because some formats support only certain sizes."""

    def find_unquantizable_reason(self, outputs: int, inputs: int, device: str) -> str:
        """Return the reason why a layer of this size cannot be quantized, or an empty string if it can."""


@runtime_checkable
class LoadedLayerChecker(Protocol):
    """Capability of checking loaded layers, because the kernels of some libraries do not support
    every layer.
    """

    def check_loaded_layers(self, model: torch.nn.Module) -> None:
        """Raise an error for layers that the library's kernels do not support, or convert these layers."""


@runtime_checkable
class WeightProtector(Protocol):
    """Capability of protecting quantized weights while an adapter is applied."""

    def protect_weights(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Context manager that keeps quantized weights unchanged while an adapter is applied."""
