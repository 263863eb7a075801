"""Interface of the modules that replace layers by C kernels.

There is one module per layer class, listed in `LAYER_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from runner_base.notes import Note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.layer_weights import LayerWeights, MatmulWorkspace

__all__ = [
    "Forward",
    "KernelResources",
    "LayerReplacement",
    "LayerReplacer",
    "LayerWeights",
    "UnsupportedLayer",
]

Forward = Callable[[torch.Tensor], torch.Tensor]


class UnsupportedLayer(Exception):
    """Raised with a reason if the kernels cannot multiply a layer.

    May contain another forward function for the layer.
    """

    def __init__(self, reason: Note, instead: Note | None = None, forward: Forward | None = None) -> None:
        """Store the reason and an alternative.

        instead: a note on the code that multiplies the layer. forward: replaces the layer's own forward.
        """
        super().__init__(reason)
        self.reason, self.instead, self.forward = reason, instead, forward


@dataclass(frozen=True)
class LayerReplacement:
    """A layer's new forward function, with the layer's weights for the fused forward."""

    forward: Forward
    weights: LayerWeights | None = (
        None  # for a pass in a single call; None where such a pass would not round the rows
    )
    others: tuple[nn.Module, ...] = ()  # further modules whose `forward` was replaced by it


@dataclass
class KernelResources:
    """The C kernels, buffers and settings that layer replacements use."""

    kernels: Kernels | None
    dtype: torch.dtype  # of the model's numbers
    byte_tile_rows: int  # from so many rows on tiles multiply bytes; 0: never
    unpacked_tile_rows: int  # the same of weights that are unpacked to bfloat16
    heap: HeapTrimmer
    # tables in blocks, by their address: a head may share its weights with one
    embeddings: Mapping[int, Any]
    workspace: MatmulWorkspace = field(default_factory=MatmulWorkspace)
    notes: list[Note] = field(default_factory=list)
    # what is wrong with layers of a kind
    trials: dict[tuple[Any, ...], Note | None] = field(default_factory=dict)
    _released: list[tuple[int, int]] = field(default_factory=list)  # first address and end

    @cached_property
    def mapped_files(self) -> MappedFiles:
        """The memory-mapped files of this process, which only quantized models use."""
        return MappedFiles()

    def release_pages(self, address: int, nbytes: int) -> None:
        self.mapped_files.release_pages(address, nbytes)
        self._released.append((address, address + nbytes))

    def release_remapped_pages(self) -> None:
        """Release memory-mapped pages again, because later reads may have loaded them into memory."""
        pieces: list[tuple[int, int]] = []
        for first, last in sorted(self._released):
            if pieces and first <= pieces[-1][1]:
                pieces[-1] = pieces[-1][0], max(last, pieces[-1][1])
            else:
                pieces.append((first, last))
        for first, last in pieces:
            self.mapped_files.release_pages(first, last - first)
        self._released.clear()

    def add_note_once(self, note: Note) -> None:
        """Add a note unless an equal note was added before."""
        if note not in self.notes:
            self.notes.append(note)


class LayerReplacer(Protocol):
    """Protocol of a module that replaces the layers of one class by C kernels."""

    def build_replacement(self, layer: Any, resources: KernelResources) -> LayerReplacement:
        """Build and test a replacement for a layer.

        Raises UnsupportedLayer if the kernels cannot multiply the layer.
        """
        ...
