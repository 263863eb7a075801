"""The contract of the modules that multiply layers: one module for each class of layers, found by
`LAYER_KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from runner_base.notes import Note
from runner_engine.devices.heap import Heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.matrices import LayerWeights, Workspace

__all__ = ["Forward", "LayerKind", "LayerWeights", "Means", "Replacement", "UnsupportedLayer"]

Forward = Callable[[torch.Tensor], torch.Tensor]


class UnsupportedLayer(Exception):
    """Why the kernels do not multiply a layer; with what does it instead, if that is not the
    layer's own function."""

    def __init__(self, reason: Note, instead: Note | None = None, forward: Forward | None = None) -> None:
        """instead: what multiplies it. forward: a function in place of the layer's own."""
        super().__init__(reason)
        self.reason, self.instead, self.forward = reason, instead, forward


@dataclass(frozen=True)
class Replacement:
    """What multiplies a layer from now on."""

    forward: Forward
    weights: LayerWeights | None = (
        None  # for a pass in a single call; None where such a pass would not round the rows
    )
    others: tuple[nn.Module, ...] = ()  # further modules whose `forward` was replaced by it


@dataclass
class Means:
    """What the layers of a model are multiplied with."""

    kernels: Kernels | None
    dtype: torch.dtype  # of the model's numbers
    byte_tile_rows: int  # from so many rows on tiles multiply bytes; 0: never
    unpacked_tile_rows: int  # the same of weights that are unpacked to bfloat16
    heap: Heap
    # tables in blocks, by their address: a head may share its weights with one
    embeddings: Mapping[int, Any]
    workspace: Workspace = field(default_factory=Workspace)
    notes: list[Note] = field(default_factory=list)
    # what is wrong with layers of a kind
    trials: dict[tuple[Any, ...], Note | None] = field(default_factory=dict)
    _released: list[tuple[int, int]] = field(default_factory=list)  # first address and end

    @cached_property
    def mapped(self) -> MappedFiles:
        """The mapped files; only a quantized model needs them."""
        return MappedFiles()

    def release(self, address: int, size: int) -> None:
        """Release pages of a mapped file whose numbers are elsewhere now."""
        self.mapped.release(address, size)
        self._released.append((address, address + size))

    def release_again(self) -> None:
        """Release what reading the next weights has mapped again, and pages that two of them
        share."""
        pieces: list[tuple[int, int]] = []
        for first, last in sorted(self._released):
            if pieces and first <= pieces[-1][1]:
                pieces[-1] = pieces[-1][0], max(last, pieces[-1][1])
            else:
                pieces.append((first, last))
        for first, last in pieces:
            self.mapped.release(first, last - first)
        self._released.clear()

    def note(self, note: Note) -> None:
        """Note something once."""
        if note not in self.notes:
            self.notes.append(note)


class LayerKind(Protocol):
    """A module that multiplies layers of one class."""

    def replacement(self, layer: Any, means: Means) -> Replacement:
        """Return what multiplies a layer, tried beside another function; UnsupportedLayer where
        that cannot be."""
        ...
