"""Multiplies a model's quantized layers with C kernels that read the stored quantized weights.

On a CPU the libraries dequantize a weight again for each token, copy all of it in another
format, or pass several times over matrices of int32 and float32. The kernels do the same
arithmetic while a part of the weight is in the cache (kernels/README.md). The weights are not
changed, so other code can still read them.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from torch import nn

from runner_base.notes import note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.matmul.backend_selection import has_linear_class
from runner_engine.matmul.kernel_resources import create_kernel_resources
from runner_engine.matmul.layer_replacement import (
    LayerReplacement,
    LayerReplacer,
    LayerWeights,
    UnsupportedLayer,
)

# the class of a layer, or of its weights → the module of this folder that multiplies it
LAYER_KINDS = {
    "GgufLinear": "blocks",
    "GroupedLinear": "groups",
    "Linear4bit": "four_bit",
    "Linear8bitLt": "llm_int8",
    "Int8Tensor": "torchao_int8",
}


class QuantizedLayers:
    """The quantized layers of a model. C kernels compute those that the kernels support."""

    def __init__(self, model: nn.Module, heap: HeapTrimmer) -> None:
        self.left: list[nn.Linear] = []
        self.matrices: dict[nn.Module, LayerWeights] = {}
        self._others: list[nn.Module] = []  # that no pass in a single call reads as a matrix
        self._means = create_kernel_resources(model, heap)
        self.notes = self._means.notes
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                self._replace_if_supported(layer)
        self._means.release_remapped_pages()

    def _replace_if_supported(self, layer: nn.Linear) -> None:
        kind = find_layer_replacer(layer)
        if kind is None:
            self.left += [] if has_linear_class(layer) else [layer]
            return
        try:
            replacement = kind.build_replacement(layer, self._means)
        except UnsupportedLayer as unsupported:
            self._skip_unsupported_layer(layer, unsupported)
        else:
            self._replace_forward(layer, replacement)

    def _skip_unsupported_layer(self, layer: nn.Linear, error: UnsupportedLayer) -> None:
        self.left.append(layer)
        if error.forward is not None:
            layer.forward = error.forward  # type: ignore[method-assign,assignment]
        instead = error.instead or note("multiplied_by_library", kind=type(layer).__name__)
        self._means.add_note_once(note("slow_layers", instead=instead, reason=error.reason))

    def _replace_forward(self, layer: nn.Linear, replacement: LayerReplacement) -> None:
        layer.forward = replacement.forward  # type: ignore[method-assign,assignment]
        if replacement.weights is None:
            self._others.append(layer)
        else:
            self.matrices[layer] = replacement.weights
        self._others += replacement.others

    @property
    def replaced_layers(self) -> list[nn.Module]:
        """The layers whose `forward` is replaced."""
        return [*self.matrices, *self._others]

    @property
    def workspace_mib(self) -> float:
        """Current size in MiB of the kernels' workspace."""
        return self._means.workspace.mib


def find_layer_replacer(layer: nn.Linear) -> LayerReplacer | None:
    classes = (*type(layer).__mro__, type(layer.weight))
    name = next((LAYER_KINDS[kind.__name__] for kind in classes if kind.__name__ in LAYER_KINDS), None)
    return None if name is None else cast(LayerReplacer, import_module(f"runner_engine.matmul.{name}"))
