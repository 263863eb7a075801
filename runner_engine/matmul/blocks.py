"""Packs quantized .gguf blocks (2 to 8 bits per weight) for the C kernels in kernels/blocks.h.

A file stores the blocks output by output. Packing interleaves the blocks of several outputs
byte by byte, so that the processor unpacks one input of all of them at a time. Sub-block
scales, of 6 bits in some types, get a byte each: that is 2 to 4 % of a matrix. No weight
changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import FORMATS, Kernels, get_tensor_address
from runner_engine.matmul import huge_pages
from runner_engine.matmul.layer_replacement import KernelResources, LayerReplacement, UnsupportedLayer
from runner_engine.matmul.layer_weights import (
    TOLERANCE,
    TRIAL_OUTPUTS,
    MatmulWorkspace,
    PackedWeights,
    create_trial_activations,
    find_output_deviation,
)
from runner_engine.models.code_interleaving import interleave_bit_plane, pack_interleaved_codes
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.gguf_types import TYPES, BlockType, split_last_dim

ROW_PARTS = {one.number: one.activation_group for one in TYPES.values()}
PACKED_AT_ONCE = 2**20  # weights, so that what is packed stays in the caches


class GgufWeights(PackedWeights):
    """A .gguf matrix [outputs, inputs], packed to uint8 [packed blocks, bytes] for the C kernels."""

    @classmethod
    def from_layer(
        cls,
        layer: GgufLinear,
        kernels: Kernels,
        workspace: MatmulWorkspace,
        tile_rows: int = 0,
        release_pages: Callable[[int, int], None] | None = None,
    ) -> GgufWeights:
        """Pack the .gguf blocks of a layer, and pad the last packed block with zeros.

        workspace: for int8 activations. tile_rows, release_pages: as in PlainPackedWeights.pack, in
        bfloat16.
        """
        kind, outputs = TYPES[layer.kind], layer.out_features
        weight = pack_gguf_blocks(
            layer.get_weight_blocks(0, outputs), kind, layer.in_features, kernels.panel_width, release_pages
        )
        bias = None if layer.bias is None else layer.bias.detach().contiguous()
        bias_at = None if bias is None else get_tensor_address(bias, bias.dtype, outputs)
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

    def dequantize_rows(self, output_indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Dequantize the weights of the given outputs: [..., inputs].

        Raises IndexError if an output does not exist.
        """
        output_indices = output_indices.to(torch.int32).contiguous()
        result = torch.empty(*output_indices.shape, self.inputs, dtype=dtype)
        self.kernels(
            "rows_of_blocks",
            dtype,
            output_indices.data_ptr(),
            output_indices.numel(),
            self.inputs,
            ctypes.addressof(self.matrix),
            result.data_ptr(),
        )
        return result

    def share_weights_with_embedding(self, embedding: GgufEmbedding) -> None:
        """Make an embedding that shares these weights read the packed blocks.

        The weights in the .gguf file are then no longer needed.
        """

        def forward(input: torch.Tensor) -> torch.Tensor:
            return embedding.scale_embeddings(self.dequantize_rows(input, embedding.dtype))

        embedding.forward = forward  # type: ignore[method-assign]


def build_replacement(layer: GgufLinear, resources: KernelResources) -> LayerReplacement:
    """Build the forward function of a .gguf layer, which multiplies packed blocks with the C kernels."""
    kernels, tile_rows, release = (
        resources.kernels,
        resources.unpacked_tile_rows,
        resources.mapped_files.release_pages,
    )
    if reason := find_kernel_problem(layer, kernels, tile_rows):
        raise UnsupportedLayer(reason, note("blocks_multiplied_by_torch", kind=layer.kind))
    assert kernels is not None
    resources.heap.release_freed_memory_if_grown()
    weights, own = (
        GgufWeights.from_layer(layer, kernels, resources.workspace, tile_rows, release),
        layer.forward,
    )
    formats = weights.formats
    embedding = resources.embeddings.get(layer.weight.data_ptr())
    if embedding is not None and (embedding.dtype not in FORMATS or layer.order is not None):
        embedding = None
    if embedding is not None:
        weights.share_weights_with_embedding(embedding)

    def forward(activations: torch.Tensor) -> torch.Tensor:
        if activations.dtype not in formats or not activations.numel():
            return own(activations)
        return weights.matmul(activations)

    release(layer.weight.data_ptr(), layer.weight.nbytes)
    return LayerReplacement(forward, weights, () if embedding is None else (embedding,))


def pack_gguf_blocks(
    block_bytes: torch.Tensor,
    block_type: BlockType,
    inputs: int,
    outputs_per_block: int,
    release_pages: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Pack .gguf blocks, uint8 [outputs, bytes], for the C kernels.

    Returns uint8 [packed blocks, bytes].

    release_pages: called with the address and size of what has been read.
    """
    outputs, blocks = block_bytes.shape[0], inputs // block_type.inputs
    panels = -(-outputs // outputs_per_block)
    result = huge_pages.allocate_weight_tensor(
        panels, blocks * block_type.packed_block_nbytes * outputs_per_block, dtype=torch.uint8
    )
    some = max(1, PACKED_AT_ONCE // (inputs * outputs_per_block))
    for first in range(0, panels, some):
        last = min(first + some, panels)
        read = rows = block_bytes[first * outputs_per_block : last * outputs_per_block]
        if rows.shape[0] < (last - first) * outputs_per_block:
            rows = torch.cat(
                (rows, rows.new_zeros((last - first) * outputs_per_block - rows.shape[0], rows.shape[1]))
            )
        _pack_blocks_into_panels(
            rows.view(last - first, outputs_per_block, blocks, block_type.stored_bytes),
            block_type,
            result[first:last].view(last - first, blocks, -1),
        )
        if release_pages is not None:
            release_pages(read.data_ptr(), read.nbytes)
    return result


def _pack_blocks_into_panels(rows: torch.Tensor, block_type: BlockType, result: torch.Tensor) -> None:
    """Pack blocks, uint8 [panels, outputs of a panel, blocks, bytes], to [panels, blocks, bytes]."""
    at, outputs = 0, rows.shape[1]

    def reserve_next_output_bytes(num_bytes: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the next bytes of each output as [panels, blocks, numbers, outputs]."""
        nonlocal at
        room = result[..., at : at + num_bytes * outputs].view(dtype)
        at += num_bytes * outputs
        return split_last_dim(room, num_bytes // dtype.itemsize, outputs)

    if not block_type.planes:
        parts = block_type.take_apart(rows)
        codes = [pack_interleaved_codes(parts.bits & ((1 << block_type.low) - 1), block_type.low)]
        if block_type.high:
            codes.append(pack_interleaved_codes(parts.bits >> block_type.low, block_type.high))
        fours = [code.contiguous().view(torch.int32).squeeze(-1) for code in codes]
        for numbers in (parts.scales.contiguous().view(torch.int16), parts.of_parts, *fours):
            reserve_next_output_bytes(numbers.shape[-1] * numbers.itemsize, numbers.dtype).copy_(
                numbers.permute(0, 2, 3, 1)
            )
        return
    scales = rows[..., block_type.scales_at : block_type.scales_at + 2 * block_type.scales]
    reserve_next_output_bytes(scales.shape[-1], torch.int16).copy_(
        scales.view(torch.int16).permute(0, 2, 3, 1)
    )
    if block_type.take_parts is not None:
        of_parts = block_type.take_parts(rows)
        reserve_next_output_bytes(of_parts.shape[-1], torch.uint8).copy_(of_parts.permute(0, 2, 3, 1))
    for plane, bits in zip(block_type.planes, (block_type.low, block_type.high), strict=False):
        num_bytes = block_type.inputs * bits // 8
        stored = rows[..., plane.at : plane.at + num_bytes]
        interleave_bit_plane(stored, bits, plane.run, reserve_next_output_bytes(num_bytes, torch.int32))


# what is wrong with products, by type of blocks, inputs, byte rows and from how many rows on tiles
# multiply
_tried: dict[tuple[str, int, bool, int], Note | None] = {}


def find_kernel_problem(layer: GgufLinear, kernels: Kernels | None, tile_rows: int = 0) -> Note | None:
    """Return the reason why the C kernels cannot multiply a layer, or None if they can.

    Compares one layer of each .gguf block type with torch.
    """
    if kernels is None:
        return note("no_kernels")
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    key = layer.kind, layer.in_features, layer.has_byte_rows, tile_rows
    if key not in _tried:
        _tried[key] = next(
            filter(None, (_compare_with_torch(layer, dtype, kernels, tile_rows) for dtype in FORMATS)), None
        )
    return _tried[key]


def _compare_with_torch(
    layer: GgufLinear, dtype: torch.dtype, kernels: Kernels, tile_rows: int
) -> Note | None:
    few = nn.Linear(layer.in_features, min(TRIAL_OUTPUTS, layer.out_features), bias=False, device="meta")
    trial = GgufLinear(
        few, layer.get_weight_blocks(0, few.out_features), layer.kind, None, layer.has_byte_rows
    )
    x = create_trial_activations(layer.in_features, dtype, tile_rows)
    with torch.no_grad():
        return find_output_deviation(
            GgufWeights.from_layer(trial, kernels, MatmulWorkspace(), tile_rows).matmul(x),
            trial(x),
            TOLERANCE[dtype],
        )
