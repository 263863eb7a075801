"""A .gguf file's matrices, whose weights stay in blocks of 2 to 8 bits: the layout that
kernels/blocks.h multiplies.

A file stores a block of one output after another. Here the blocks of the outputs of a panel lie
together, byte by byte, so that the processor unpacks one input of all of them at a time. The scales
of the parts of a block, of 6 bits in some types, get a byte each: that is 2 to 4 % of a matrix. No
weight changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.native import FORMATS, Kernels, pointer
from runner_engine.kernels.shared_numbers import Matrix, WeightFormat
from runner_engine.matmul import huge_pages
from runner_engine.matmul.matrices import (
    TOLERANCE,
    TRIAL_OUTPUTS,
    PackedWeights,
    Workspace,
    difference,
    trial_rows,
)
from runner_engine.matmul.replacing import Means, Replacement, UnsupportedLayer
from runner_engine.models.fours import fours_of
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.gguf_types import TYPES, BlockType, split

ROW_PARTS = {one.number: one.row_part for one in TYPES.values()}
PACKED_AT_ONCE = 2**22  # weights, which take a byte each while they are packed


class Blocks(PackedWeights):
    """A matrix [outputs, inputs] in blocks, uint8 [panels, bytes], as C reads it."""

    @classmethod
    def of(
        cls,
        layer: GgufLinear,
        kernels: Kernels,
        workspace: Workspace,
        tile_rows: int = 0,
        release: Callable[[int, int], None] | None = None,
    ) -> Blocks:
        """Put a layer's blocks into panels; the last one is padded with zeros.

        workspace: for rows in bytes. tile_rows: as of Panels, in bfloat16. release: as of Panels.
        """
        kind, outputs = TYPES[layer.kind], layer.out_features
        weight = packed(layer.rows(0, outputs), kind, layer.in_features, kernels.panel_width, release)
        bias = None if layer.bias is None else layer.bias.detach().contiguous()
        bias_at = None if bias is None else pointer(bias, bias.dtype, outputs)
        form = WeightFormat.byte_blocks if layer.has_byte_rows else WeightFormat.blocks
        matrix = Matrix(
            weight=weight.data_ptr(),
            bias=bias_at,
            outputs=outputs,
            kind=form,
            block=kind.number,
            tile_rows=0 if layer.has_byte_rows else tile_rows,
        )
        return cls(
            kernels,
            matrix,
            layer.in_features,
            weight,
            bias,
            workspace=workspace if layer.has_byte_rows else None,
        )

    def rows(self, outputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights [..., inputs] of some outputs, such as tokens; IndexError where there
        is no such one."""
        outputs = outputs.to(torch.int32).contiguous()
        result = torch.empty(*outputs.shape, self.inputs, dtype=dtype)
        self.kernels(
            "rows_of_blocks",
            dtype,
            outputs.data_ptr(),
            outputs.numel(),
            self.inputs,
            ctypes.addressof(self.matrix),
            result.data_ptr(),
        )
        return result

    def exchange(self, embedding: GgufEmbedding) -> None:
        """Let an embedding with the same weights take its rows from here: it reads nothing of the
        file any more."""

        def forward(input: torch.Tensor) -> torch.Tensor:
            return embedding.scaled(self.rows(input, embedding.dtype))

        embedding.forward = forward  # type: ignore[method-assign]


def replacement(layer: GgufLinear, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels, from panels of its blocks."""
    kernels, tile_rows, release = means.kernels, means.unpacked_tile_rows, means.mapped.release
    if reason := problem(layer, kernels, tile_rows):
        raise UnsupportedLayer(reason, note("blocks_multiplied_by_torch", kind=layer.kind))
    assert kernels is not None
    means.heap.trim_if_grown()
    weights, own = Blocks.of(layer, kernels, means.workspace, tile_rows, release), layer.forward
    formats = weights.formats
    embedding = means.embeddings.get(layer.weight.data_ptr())
    if embedding is not None and (embedding.dtype not in FORMATS or layer.order is not None):
        embedding = None
    if embedding is not None:
        weights.exchange(embedding)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype not in formats or not rows.numel():
            return own(rows)
        return weights.product(rows)

    release(layer.weight.data_ptr(), layer.weight.nbytes)
    return Replacement(forward, weights, () if embedding is None else (embedding,))


def packed(
    stored: torch.Tensor,
    kind: BlockType,
    inputs: int,
    width: int,
    release: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Return a file's blocks, uint8 [outputs, bytes], in panels of `width` outputs: uint8 [panels,
    bytes].

    release: called with the address and the size of what has been read.
    """
    outputs, blocks = stored.shape[0], inputs // kind.inputs
    panels = -(-outputs // width)
    result = huge_pages.empty(panels, blocks * kind.packed_bytes * width, dtype=torch.uint8)
    some = max(1, PACKED_AT_ONCE // (inputs * width))
    for first in range(0, panels, some):
        last = min(first + some, panels)
        read = rows = stored[first * width : last * width]
        if rows.shape[0] < (last - first) * width:
            rows = torch.cat((rows, rows.new_zeros((last - first) * width - rows.shape[0], rows.shape[1])))
        parts = kind.take_apart(rows.view(rows.shape[0], blocks, kind.stored_bytes))
        planes = [split(parts.scales, -1, 2), parts.of_parts[..., None]]
        planes.append(fours_of(parts.bits & ((1 << kind.low) - 1), kind.low))
        if kind.high:
            planes.append(fours_of(parts.bits >> kind.low, kind.high))
        # each [outputs, blocks, numbers, bytes of a number]: the outputs of a panel side by side
        # for each number
        sides = [
            plane.reshape(-1, width, *plane.shape[1:]).permute(0, 2, 3, 1, 4).flatten(2)
            for plane in planes
            if plane.shape[2]
        ]
        result[first:last] = torch.cat(sides, dim=2).flatten(1)
        if release is not None:
            release(read.data_ptr(), read.nbytes)
    return result


# what is wrong with products, by type of blocks, inputs, byte rows and from how many rows on tiles
# multiply
_tried: dict[tuple[str, int, bool, int], Note | None] = {}


def problem(layer: GgufLinear, kernels: Kernels | None, tile_rows: int = 0) -> Note | None:
    """Return why the kernels cannot multiply a layer; None if they can. One layer of each type is
    tried beside torch."""
    if kernels is None:
        return note("no_kernels")
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    key = layer.kind, layer.in_features, layer.has_byte_rows, tile_rows
    if key not in _tried:
        _tried[key] = next(
            filter(None, (_difference(layer, dtype, kernels, tile_rows) for dtype in FORMATS)), None
        )
    return _tried[key]


def _difference(layer: GgufLinear, dtype: torch.dtype, kernels: Kernels, tile_rows: int) -> Note | None:
    few = nn.Linear(layer.in_features, min(TRIAL_OUTPUTS, layer.out_features), bias=False, device="meta")
    trial = GgufLinear(few, layer.rows(0, few.out_features), layer.kind, None, layer.has_byte_rows)
    x = trial_rows(layer.in_features, dtype, tile_rows)
    with torch.no_grad():
        return difference(
            Blocks.of(trial, kernels, Workspace(), tile_rows).product(x), trial(x), TOLERANCE[dtype]
        )
