"""Optional capabilities of quantization choices. A choice has a capability if it defines the
protocol's method.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from runner_engine.quantization.base import OwnLayers, QuantizationConfig

if TYPE_CHECKING:
    import torch


@runtime_checkable
class LayerQuantizer(Protocol):
    """Capability to quantize single layers of a loaded model."""

    def quantize_layer(self, model: torch.nn.Module, layer: torch.nn.Module) -> torch.nn.Module:
        """Return a linear layer quantized in this format. An unsupported layer is returned unchanged."""


def can_quantize_layers(config_class: type[QuantizationConfig]) -> bool:
    """Whether a choice can quantize single layers of a loaded model."""
    return config_class.own_layers is OwnLayers.made_groups or issubclass(config_class, LayerQuantizer)


@runtime_checkable
class BlockFormat(Protocol):
    """Capability to keep a file's quantized blocks in memory."""

    def get_block_config(self) -> QuantizationConfig | None:
        """Return the config for a file whose blocks stay quantized. None if the blocks must be
        dequantized.
        """

    def check_dequantized_keys(self) -> None:
        """Raise ConfigError for config keys that dequantized weights do not support."""


@runtime_checkable
class DeviceChecker(Protocol):
    """Capability to check the device. Some quantization libraries support only certain devices."""

    def check_device(self, device: str) -> None:
        """Raise ConfigError for an unsupported device, before any weight is read."""


@runtime_checkable
class SizeChecker(Protocol):
    """Capability to check layer sizes. Some formats can quantize only certain sizes."""

    def find_unquantizable_reason(self, outputs: int, inputs: int, device: str) -> str:
        """Return why a layer of this size cannot be quantized. Empty if it can be quantized."""


@runtime_checkable
class LoadedLayerChecker(Protocol):
    """Optional interface of a quantization that checks its layers after loading, because its kernels do not
    support every layer."""

    def check_loaded_layers(self, model: torch.nn.Module) -> None:
        """Raise an error for layers that the library's kernels cannot multiply, or change the layers so
        that they can.
        """


@runtime_checkable
class WeightProtector(Protocol):
    """Capability to protect weights while an adapter is applied to the model."""

    def protect_weights(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Context that keeps quantized weights unchanged while an adapter is applied."""
