"""Packs group-quantized weights into the layout that the kernels of kernels/groups.h read.

The codes of several outputs are interleaved byte by byte, so that the processor unpacks one
input of all of them at a time. A zero point that all groups share is stored once, any other
takes a byte. No weight changes. If inputs are not ordered by group, a list maps each input to
its group, so that activations keep their order.
"""

from __future__ import annotations

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.c_interface import CodeType, WeightFormat
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import FORMATS, Kernels, get_tensor_address
from runner_engine.matmul import huge_pages, int8_stored
from runner_engine.matmul.layer_replacement import KernelResources, LayerReplacement, UnsupportedLayer
from runner_engine.matmul.layer_weights import (
    TOLERANCE,
    TRIAL_OUTPUTS,
    MatmulWorkspace,
    PackedWeights,
    create_trial_activations,
    find_output_deviation,
)
from runner_engine.models.code_interleaving import pack_interleaved_codes
from runner_engine.models.grouped_linear import GroupedLinear, round_activations_to_int8
from runner_engine.models.layouts.base import Layout
from runner_engine.models.layouts.float8 import E4M3
from runner_engine.models.layouts.load_time import OutputMajorLayout, PackedBlockLayout

PACKED_AT_ONCE = 2**22  # weights, which take a byte each while they are packed
# lower and upper bits kept
PLANES = {2: (2, 0), 3: (2, 1), 4: (4, 0), 5: (4, 1), 6: (4, 2), 7: (8, 0), 8: (8, 0)}
OWN_ZEROS = (-1, -2)  # of each group: in bytes, in the format of the scales; as in groups.h
SCALE_TYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.float8_e8m0fnu: 3,
    torch.float8_e4m3fn: 4,
}


class GroupedWeights(PackedWeights):
    """A group-quantized matrix [outputs, inputs], packed to uint8 [packed blocks, bytes] for the C
    kernels.
    """

    @classmethod
    def from_layer(
        cls,
        layer: GroupedLinear,
        kernels: Kernels,
        workspace: MatmulWorkspace,
        outputs: int | None = None,
        tile_rows: int = 0,
    ) -> GroupedWeights:
        """Pack the weights of a layer, or of its first outputs only, for the C kernels.

        The last packed block is padded with zeros. workspace: for int8 activations. tile_rows: as
        in PlainPackedWeights.pack, in bfloat16.
        """
        layout, stored, outputs = layer.layout, layer.stored, outputs or layer.out_features
        kind = find_quantization_code_type(layout)
        assert kind is not None
        zeros = (
            layout.zeros(stored, 0, outputs)
            if kind is CodeType.integers
            else torch.zeros(1, 1, dtype=torch.uint8)
        )
        is_shared = not zeros.is_floating_point() and bool((zeros == zeros[0, 0]).all())
        if isinstance(layout, PackedBlockLayout):
            weight = stored["panels"].detach()
        else:
            weight = pack_grouped_weights(layer, None if is_shared else zeros, outputs, kernels.panel_width)
        by_bytes = uses_int8_matmul(layer)
        order, bias = (
            layer.input_group_indices,
            None if layer.bias is None else layer.bias.detach()[:outputs].contiguous(),
        )
        if (
            order is None and layout.group % 8 and layout.groups > 1
        ):  # C reads the group of eight inputs at a time
            order = torch.arange(layer.in_features) // layout.group
        group_of = None if order is None else order.to(torch.int32)
        table, factor = (layout.values, 0.0) if kind is CodeType.table else (None, 0.0)
        if by_bytes and table is not None:
            table, factor = convert_code_values_to_int8(table) or (table, 0.0)
        matrix = Matrix(
            weight=weight.data_ptr(),
            bias=None if bias is None else get_tensor_address(bias, bias.dtype, outputs),
            constants=None
            if group_of is None
            else get_tensor_address(group_of, torch.int32, layer.in_features),
            row_scale=factor,
            outputs=outputs,
            kind=WeightFormat.byte_groups if by_bytes else WeightFormat.groups,
            block=layout.group,
            bits=sum(PLANES[layout.bits]),
            scale_type=SCALE_TYPES[layout.get_packed_scales(stored, 0, 1).dtype],
            scale_divisor=layout.scale_divisor(stored),
            zero_point=int(zeros[0, 0]) if is_shared else OWN_ZEROS[zeros.is_floating_point()],
            code_type=kind,
            tile_rows=0 if by_bytes else tile_rows,
        )
        if table is not None and by_bytes:
            matrix.constants = get_tensor_address(table, torch.uint8, 16)
        elif table is not None:
            matrix.scale = get_tensor_address(table, torch.float32, 16)
        others = tuple(one for one in (group_of, table) if one is not None)
        return cls(kernels, matrix, layer.in_features, weight, bias, others, workspace if by_bytes else None)


def build_replacement(layer: GroupedLinear, resources: KernelResources) -> LayerReplacement:
    if int8_stored.is_w8a8_layer(layer):
        from_file = int8_stored.build_replacement(layer, resources)
        if from_file is not None:
            return from_file
    kernels, tile_rows = resources.kernels, resources.unpacked_tile_rows
    if reason := find_kernel_problem(layer, kernels, tile_rows):
        raise UnsupportedLayer(reason, note("multiplied_by_torch", what="GroupedLinear"))
    assert kernels is not None
    resources.heap.release_freed_memory_if_grown()
    stored, own = list(layer.stored.values()), layer.forward
    weights = GroupedWeights.from_layer(layer, kernels, resources.workspace, tile_rows=tile_rows)
    replace_tensors_by_packed_blocks(layer, weights)
    formats, prepared = weights.formats, None
    if layer.layout.rows:
        prepared = layer.round_activations
    if layer.has_byte_rows and not uses_int8_matmul(layer):
        prepared = round_activations_to_int8  # its products do not round rows

    def forward(activations: torch.Tensor) -> torch.Tensor:
        if activations.dtype not in formats or not activations.numel():
            return own(activations)
        return weights.matmul(activations if prepared is None else prepared(activations))

    for tensor in stored:
        resources.release_pages(tensor.data_ptr(), _count_spanned_bytes(tensor))
    return LayerReplacement(forward, weights if prepared is None else None)


def _count_spanned_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes that a strided tensor spans in memory, from its first to its last element.

    In fused experts, gate and up outputs may alternate.
    """
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def uses_int8_matmul(layer: GroupedLinear) -> bool:
    """Whether the kernels use int8 activations for a layer.

    Groups must be contiguous and a multiple of 16, and codes integers or a table of values that
    int8 represents.
    """
    layout = layer.layout
    fits = layer.in_features % 32 == 0 and layout.group % 16 == 0 and layer.input_group_indices is None
    if not layer.has_byte_rows or not fits:
        return False
    kind = find_quantization_code_type(layout)
    return kind is CodeType.integers or (
        kind is CodeType.table
        and layout.values is not None
        and convert_code_values_to_int8(layout.values) is not None
    )


def convert_code_values_to_int8(code_values: torch.Tensor) -> tuple[torch.Tensor, float] | None:
    """Convert a table of 16 code values to int8 with an offset of 128, and a scale.

    Returns None if int8 cannot represent the values.
    """
    for times in (1, 2, 4):
        whole = code_values * times
        if torch.equal(whole, whole.round()) and whole.abs().max() < 128:
            return (whole + 128).to(torch.uint8), 1 / times
    return None


def find_quantization_code_type(layout: Layout) -> CodeType | None:
    """Return the C kernels' type for a layout's quantization codes, or None if it is unsupported."""
    if (values := layout.values) is None:
        return CodeType.integers
    if layout.bits == 4:
        return CodeType.table
    return (
        CodeType.e4m3 if layout.bits == 8 and values.view(torch.int32).equal(E4M3.view(torch.int32)) else None
    )


def pack_grouped_weights(
    layer: GroupedLinear, zero_points: torch.Tensor | None, outputs: int, outputs_per_block: int
) -> torch.Tensor:
    layout, stored, inputs = layer.layout, layer.stored, layer.in_features
    low, high = PLANES[layout.bits]
    in_fours = uses_int8_matmul(layer)
    panels = -(-outputs // outputs_per_block)
    each = layout.groups * (
        layout.get_packed_scales(stored, 0, 1).element_size()
        + (0 if zero_points is None else zero_points.element_size())
    )
    result = huge_pages.allocate_weight_tensor(
        panels, (each + inputs // 8 * (low + high)) * outputs_per_block, dtype=torch.uint8
    )
    some = max(1, PACKED_AT_ONCE // (inputs * outputs_per_block))
    for begin in range(0, panels, some):
        end = min(begin + some, panels)
        first, last = begin * outputs_per_block, min(end * outputs_per_block, outputs)
        scales = layout.get_packed_scales(stored, first, last)
        sides = [(scales.view(torch.uint8) if scales.itemsize == 1 else scales).unsqueeze(2)]
        if zero_points is not None:
            sides.append(zero_points[first:last].unsqueeze(2))
        at_once, pack = (
            (32, _interleave_codes_to_words)
            if in_fours
            else (8, lambda some, each: pack_interleaved_codes(some, each, 1).squeeze(-1))
        )
        some_codes = layout.codes(stored, first, last).reshape(last - first, inputs // at_once, at_once)
        planes = [pack(some_codes & (1 << low) - 1, low)]
        if high:
            planes.append(pack(some_codes >> low, high))
        sides.append(torch.cat(planes, dim=2))
        missing = (end - begin) * outputs_per_block - (last - first)
        result[begin:end] = torch.cat(
            [_interleave_block_outputs_bytewise(side, missing, outputs_per_block) for side in sides], dim=1
        )
    return result


def replace_tensors_by_packed_blocks(layer: GroupedLinear, weights: GroupedWeights) -> None:
    layout, matrix = layer.layout, weights.matrix
    if not isinstance(layout, OutputMajorLayout):
        return
    scales, zeros = (one(layer.stored, 0, 1) for one in (layout.scales, layout.zeros))
    panels = PackedBlockLayout(
        layout.bits,
        layout.group,
        layout.inputs,
        layout.outputs,
        rows=layout.rows,
        width=weights.kernels.panel_width,
        planes=PLANES[layout.bits],
        scale_type=scales.dtype,
        zero_type=None if matrix.zero_point >= 0 else zeros.dtype,
        zero_point=max(matrix.zero_point, 0),
        in_fours=matrix.kind == WeightFormat.byte_groups,
    )
    layer.set_stored_tensors(panels, {"panels": weights.weight.view(torch.int32)})


def _interleave_block_outputs_bytewise(
    output_bytes: torch.Tensor, num_padding_outputs: int, outputs_per_block: int
) -> torch.Tensor:
    """Interleave the outputs of each packed block bytewise: uint8 [packed blocks, bytes]."""
    filled = nn.functional.pad(output_bytes, (0, 0, 0, 0, 0, num_padding_outputs))
    panels = filled.reshape(-1, outputs_per_block, *filled.shape[1:]).permute(0, 2, 3, 1).contiguous()
    return panels.flatten(1).view(torch.uint8)


def _interleave_codes_to_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack interleaved codes into 32-bit words: [..., n] becomes int32 [..., n * bits / 32]."""
    return pack_interleaved_codes(codes.to(torch.uint8), bits).contiguous().view(torch.int32).squeeze(-1)


_tried: dict[tuple[object, ...], Note | None] = {}  # what is wrong with products of a kind of groups


def find_kernel_problem(layer: GroupedLinear, kernels: Kernels | None, tile_rows: int = 0) -> Note | None:
    """Return the reason why the C kernels cannot multiply a layer, or None if they can.

    Compares one layer of each format with torch.
    """
    if kernels is None:
        return note("no_kernels")
    if layer.weight.device.type != "cpu":
        return note("not_on_cpu")
    if (kind := find_quantization_code_type(layer.layout)) is None:
        return note("unknown_codes")
    if layer.in_features % 8:
        return note("uneven_inputs")
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    scales, is_ordered = (
        layer.layout.get_packed_scales(layer.stored, 0, 1).dtype,
        layer.input_group_indices is None,
    )
    zeros = layer.layout.zeros(layer.stored, 0, 1).dtype if kind is CodeType.integers else None
    sizes = layer.layout.bits, layer.layout.group, layer.in_features
    key = (type(layer.layout), kind, *sizes, scales, zeros, is_ordered, uses_int8_matmul(layer), tile_rows)
    if key not in _tried:
        _tried[key] = next(
            filter(None, (_compare_with_torch(layer, dtype, kernels, tile_rows) for dtype in FORMATS)), None
        )
    return _tried[key]


def _compare_with_torch(
    layer: GroupedLinear, dtype: torch.dtype, kernels: Kernels, tile_rows: int
) -> Note | None:
    outputs = min(TRIAL_OUTPUTS, layer.out_features)
    trial = GroupedWeights.from_layer(layer, kernels, MatmulWorkspace(), outputs, tile_rows)
    trial.matrix.bias = None  # it is added in the same way to every product
    x = create_trial_activations(layer.in_features, dtype, tile_rows)
    with torch.no_grad():
        # rows in bytes are multiplied by the weights that are stored, others by these in the rows'
        # format
        rows, of_weights = (
            (round_activations_to_int8(x.float()), torch.float32) if uses_int8_matmul(layer) else (x, dtype)
        )
        expected = nn.functional.linear(rows, layer.dequantize_outputs(0, outputs, of_weights))
        return find_output_deviation(trial.matmul(x), expected, TOLERANCE[dtype])
