"""What only some choices of `quantization` can do: a choice has a capability if it defines its method."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from runner_engine.quantization.base import OwnLayers, QuantizationConfig

if TYPE_CHECKING:
    import torch


@runtime_checkable
class QuantizesLayers(Protocol):
    """It quantizes single layers of a loaded model, for a mix; others quantize whole models only."""

    def quantize_layer(self, model: torch.nn.Module, layer: torch.nn.Module) -> torch.nn.Module:
        """Return a plain linear layer in this format, perhaps as the same object; one that it cannot
        quantize as it is."""


def quantizes_layers(kind: type[QuantizationConfig]) -> bool:
    """Whether a choice can quantize single layers of a loaded model."""
    return kind.own_layers is OwnLayers.made_groups or issubclass(kind, QuantizesLayers)


@runtime_checkable
class HoldsBlocks(Protocol):
    """It reads a file whose blocks may stay as they are."""

    def in_blocks(self) -> QuantizationConfig | None:
        """Return what describes the loaded file whose blocks stay; None if they shall not."""

    def check_unpacked(self) -> None:
        """Reject keys that have a meaning only for blocks that stay."""


@runtime_checkable
class ChecksDevice(Protocol):
    """Its library does not run on every device."""

    def prepare(self, device: str) -> None:
        """Reject a device before any weight is read."""


@runtime_checkable
class ChecksSizes(Protocol):
    """It cannot quantize layers of all sizes."""

    def unfit(self, outputs: int, inputs: int, device: str) -> str:
        """Say why a layer of this size cannot be quantized, after its path; empty if it can."""


@runtime_checkable
class ChecksLoaded(Protocol):
    """Its library's kernels cannot compute all layers that they load."""

    def check_loaded(self, model: torch.nn.Module) -> None:
        """Reject these layers, or let the kernels compute them."""


@runtime_checkable
class ProtectsWeights(Protocol):
    """Its weights need protection while an adapter is applied to the model."""

    def adapting(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Protect them."""
