"""Layers that a library has quantized, or a checkpoint holds so, multiplied directly from the
stored weights.

On a CPU the libraries unpack a weight again for each row, copy all of it in another format, or pass
several times over matrices of int32 and float32. The kernels do the same arithmetic while a panel
of the weight is in the cache (kernels/README.md). The weights are not changed, so other code can
still read them.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from torch import nn

from runner_base.notes import note
from runner_engine.devices.heap import Heap
from runner_engine.matmul.means import means_for
from runner_engine.matmul.replacing import LayerKind, LayerWeights, Replacement, UnsupportedLayer

# the class of a layer, or of its weights → the module of this folder that multiplies it
LAYER_KINDS = {
    "GgufLinear": "blocks",
    "GroupedLinear": "groups",
    "Linear4bit": "four_bit",
    "Linear8bitLt": "llm_int8",
    "Int8Tensor": "torchao_int8",
}


class QuantizedLayers:
    """The quantized layers of a model: those that the kernels multiply, and those that are left to
    their library."""

    def __init__(self, model: nn.Module, heap: Heap) -> None:
        self.left: list[nn.Linear] = []
        self.matrices: dict[nn.Module, LayerWeights] = {}
        self._others: list[nn.Module] = []  # that no pass in a single call reads as a matrix
        self._means = means_for(model, heap)
        self.notes = self._means.notes
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                self._treat(layer)
        self._means.release_again()

    def _treat(self, layer: nn.Linear) -> None:
        """Let the kernels multiply a layer, if it is quantized and they can."""
        kind = kind_of(layer)
        if kind is None:
            self.left += [layer] if type(layer) is not nn.Linear else []
            return
        try:
            replacement = kind.replacement(layer, self._means)
        except UnsupportedLayer as unsupported:
            self._leave(layer, unsupported)
        else:
            self._replace(layer, replacement)

    def _leave(self, layer: nn.Linear, unsupported: UnsupportedLayer) -> None:
        """Leave a layer to its library, or to torch."""
        self.left.append(layer)
        if unsupported.forward is not None:
            layer.forward = unsupported.forward  # type: ignore[method-assign,assignment]
        instead = unsupported.instead or note("multiplied_by_library", kind=type(layer).__name__)
        self._means.note(note("slow_layers", instead=instead, reason=unsupported.reason))

    def _replace(self, layer: nn.Linear, replacement: Replacement) -> None:
        """Let a layer multiply as its replacement does."""
        layer.forward = replacement.forward  # type: ignore[method-assign,assignment]
        if replacement.weights is None:
            self._others.append(layer)
        else:
            self.matrices[layer] = replacement.weights
        self._others += replacement.others

    @property
    def exchanged(self) -> list[nn.Module]:
        """The layers whose `forward` is replaced."""
        return [*self.matrices, *self._others]

    @property
    def workspace_mib(self) -> float:
        """The kernels' workspace."""
        return self._means.workspace.mib


def kind_of(layer: nn.Linear) -> LayerKind | None:
    """Return the module that multiplies such layers; None if there is none."""
    classes = (*type(layer).__mro__, type(layer.weight))
    name = next((LAYER_KINDS[kind.__name__] for kind in classes if kind.__name__ in LAYER_KINDS), None)
    return None if name is None else cast(LayerKind, import_module(f"runner_engine.matmul.{name}"))
