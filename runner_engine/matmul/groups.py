"""A checkpoint's integers with a scale for each group of inputs, in the layout that
kernels/groups.h multiplies.

The codes of the outputs of a panel lie together, byte by byte, so that the processor unpacks one
input of all of them at a time. A zero point that all groups share is kept once, any other takes a
byte. No weight changes. Where inputs are not ordered by their groups, each finds its group in a
list, so that rows stay as they are.
"""

from __future__ import annotations

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.native import FORMATS, Kernels, pointer
from runner_engine.kernels.shared_numbers import CodeType, Matrix, WeightFormat
from runner_engine.matmul import huge_pages, int8_stored
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
from runner_engine.models.grouped import GroupedLinear, rounded_by_parts
from runner_engine.models.layouts.base import Layout
from runner_engine.models.layouts.float8 import E4M3
from runner_engine.models.layouts.made import PanelsLayout, RowsLayout

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


class Groups(PackedWeights):
    """A matrix [outputs, inputs] in groups, uint8 [panels, bytes], as C reads it."""

    @classmethod
    def of(
        cls,
        layer: GroupedLinear,
        kernels: Kernels,
        workspace: Workspace,
        outputs: int | None = None,
        tile_rows: int = 0,
    ) -> Groups:
        """Put a layer's outputs, or the first of them, into panels; the last one is padded with
        zeros.

        workspace: for rows in bytes. tile_rows: as of Panels, in bfloat16.
        """
        layout, stored, outputs = layer.layout, layer.stored, outputs or layer.out_features
        kind = code_type(layout)
        assert kind is not None
        zeros = (
            layout.zeros(stored, 0, outputs)
            if kind is CodeType.integers
            else torch.zeros(1, 1, dtype=torch.uint8)
        )
        is_shared = not zeros.is_floating_point() and bool((zeros == zeros[0, 0]).all())
        if isinstance(layout, PanelsLayout):
            weight = stored["panels"].detach()
        else:
            weight = packed(layer, None if is_shared else zeros, outputs, kernels.panel_width)
        by_bytes = multiplies_bytes(layer)
        order, bias = (
            layer.group_of,
            None if layer.bias is None else layer.bias.detach()[:outputs].contiguous(),
        )
        if (
            order is None and layout.group % 8 and layout.groups > 1
        ):  # C reads the group of eight inputs at a time
            order = torch.arange(layer.in_features) // layout.group
        group_of = None if order is None else order.to(torch.int32)
        table, factor = (layout.values, 0.0) if kind is CodeType.table else (None, 0.0)
        if by_bytes and table is not None:
            table, factor = byte_table(table) or (table, 0.0)
        matrix = Matrix(
            weight=weight.data_ptr(),
            bias=None if bias is None else pointer(bias, bias.dtype, outputs),
            constants=None if group_of is None else pointer(group_of, torch.int32, layer.in_features),
            row_scale=factor,
            outputs=outputs,
            kind=WeightFormat.byte_groups if by_bytes else WeightFormat.groups,
            block=layout.group,
            bits=sum(PLANES[layout.bits]),
            scale_type=SCALE_TYPES[layout.panel_scales(stored, 0, 1).dtype],
            scale_divisor=layout.scale_divisor(stored),
            zero_point=int(zeros[0, 0]) if is_shared else OWN_ZEROS[zeros.is_floating_point()],
            code_type=kind,
            tile_rows=0 if by_bytes else tile_rows,
        )
        if table is not None and by_bytes:
            matrix.constants = pointer(table, torch.uint8, 16)
        elif table is not None:
            matrix.scale = pointer(table, torch.float32, 16)
        others = tuple(one for one in (group_of, table) if one is not None)
        return cls(kernels, matrix, layer.in_features, weight, bias, others, workspace if by_bytes else None)


def replacement(layer: GroupedLinear, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels: from its file where it holds bytes, else from
    panels."""
    if int8_stored.is_of_bytes(layer):
        from_file = int8_stored.replacement(layer, means)
        if from_file is not None:
            return from_file
    kernels, tile_rows = means.kernels, means.unpacked_tile_rows
    if reason := problem(layer, kernels, tile_rows):
        raise UnsupportedLayer(reason, note("multiplied_by_torch", what="GroupedLinear"))
    assert kernels is not None
    means.heap.trim_if_grown()
    stored, own = list(layer.stored.values()), layer.forward
    weights = Groups.of(layer, kernels, means.workspace, tile_rows=tile_rows)
    hold_panels(layer, weights)
    formats, prepared = weights.formats, None
    if layer.layout.rows:
        prepared = layer.prepared
    if layer.has_byte_rows and not multiplies_bytes(layer):
        prepared = rounded_by_parts  # its products do not round rows

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype not in formats or not rows.numel():
            return own(rows)
        return weights.product(rows if prepared is None else prepared(rows))

    for tensor in stored:
        means.release(tensor.data_ptr(), _span(tensor))
    return Replacement(forward, weights if prepared is None else None)


def _span(tensor: torch.Tensor) -> int:
    """Return over how many bytes a tensor extends: outputs of an expert's gate and up may
    alternate."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def multiplies_bytes(layer: GroupedLinear) -> bool:
    """Whether a layer's rows are rounded to bytes, and the kernels multiply them as bytes.

    Groups must be whole parts of a row, in order, and codes integers or a table of numbers that
    bytes represent.
    """
    layout = layer.layout
    fits = layer.in_features % 32 == 0 and layout.group % 16 == 0 and layer.group_of is None
    if not layer.has_byte_rows or not fits:
        return False
    kind = code_type(layout)
    return kind is CodeType.integers or (
        kind is CodeType.table and layout.values is not None and byte_table(layout.values) is not None
    )


def byte_table(values: torch.Tensor) -> tuple[torch.Tensor, float] | None:
    """Return 16 values as bytes that are 128 too large, and what a byte stands for; None if bytes
    cannot have them."""
    for times in (1, 2, 4):
        whole = values * times
        if torch.equal(whole, whole.round()) and whole.abs().max() < 128:
            return (whole + 128).to(torch.uint8), 1 / times
    return None


def code_type(layout: Layout) -> CodeType | None:
    """Return what a layout's codes are; None if the kernels do not know it."""
    if (values := layout.values) is None:
        return CodeType.integers
    if layout.bits == 4:
        return CodeType.table
    return (
        CodeType.e4m3 if layout.bits == 8 and values.view(torch.int32).equal(E4M3.view(torch.int32)) else None
    )


def packed(layer: GroupedLinear, zeros: torch.Tensor | None, outputs: int, width: int) -> torch.Tensor:
    """Return a layer's first outputs in panels of `width` outputs: uint8 [panels, bytes]."""
    layout, stored, inputs = layer.layout, layer.stored, layer.in_features
    low, high = PLANES[layout.bits]
    in_fours = multiplies_bytes(layer)
    panels = -(-outputs // width)
    each = layout.groups * (
        layout.panel_scales(stored, 0, 1).element_size() + (0 if zeros is None else zeros.element_size())
    )
    result = huge_pages.empty(panels, (each + inputs // 8 * (low + high)) * width, dtype=torch.uint8)
    some = max(1, PACKED_AT_ONCE // (inputs * width))
    for begin in range(0, panels, some):
        end = min(begin + some, panels)
        first, last = begin * width, min(end * width, outputs)
        scales = layout.panel_scales(stored, first, last)
        sides = [(scales.view(torch.uint8) if scales.itemsize == 1 else scales).unsqueeze(2)]
        if zeros is not None:
            sides.append(zeros[first:last].unsqueeze(2))
        at_once, pack = (
            (32, _words_of) if in_fours else (8, lambda some, each: fours_of(some, each, 1).squeeze(-1))
        )
        some_codes = layout.codes(stored, first, last).reshape(last - first, inputs // at_once, at_once)
        planes = [pack(some_codes & (1 << low) - 1, low)]
        if high:
            planes.append(pack(some_codes >> low, high))
        sides.append(torch.cat(planes, dim=2))
        missing = (end - begin) * width - (last - first)
        result[begin:end] = torch.cat([_side_by_side(side, missing, width) for side in sides], dim=1)
    return result


def hold_panels(layer: GroupedLinear, it: Groups) -> None:
    """Let a layer that was made here hold the panels in place of its rows, so that it is in memory
    once."""
    layout, matrix = layer.layout, it.matrix
    if not isinstance(layout, RowsLayout):
        return
    scales, zeros = (one(layer.stored, 0, 1) for one in (layout.scales, layout.zeros))
    panels = PanelsLayout(
        layout.bits,
        layout.group,
        layout.inputs,
        layout.outputs,
        rows=layout.rows,
        width=it.kernels.panel_width,
        planes=PLANES[layout.bits],
        scale_type=scales.dtype,
        zero_type=None if matrix.zero_point >= 0 else zeros.dtype,
        zero_point=max(matrix.zero_point, 0),
        in_fours=matrix.kind == WeightFormat.byte_groups,
    )
    layer.hold(panels, {"panels": it.weight.view(torch.int32)})


def _side_by_side(numbers: torch.Tensor, missing: int, width: int) -> torch.Tensor:
    """Return [outputs, n, m] as the bytes of panels, in which the outputs lie side by side: uint8
    [panels, bytes]."""
    filled = nn.functional.pad(numbers, (0, 0, 0, 0, 0, missing))
    panels = filled.reshape(-1, width, *filled.shape[1:]).permute(0, 2, 3, 1).contiguous()
    return panels.flatten(1).view(torch.uint8)


def _words_of(codes: torch.Tensor, each: int) -> torch.Tensor:
    """Put codes of `each` bits into fours of bytes, each a number: int32 [..., n * each / 32] of
    [..., n]."""
    return fours_of(codes.to(torch.uint8), each).contiguous().view(torch.int32).squeeze(-1)


_tried: dict[tuple[object, ...], Note | None] = {}  # what is wrong with products of a kind of groups


def problem(layer: GroupedLinear, kernels: Kernels | None, tile_rows: int = 0) -> Note | None:
    """Return why the kernels cannot multiply a layer; None if they can. One layer of each kind is
    tried beside torch."""
    if kernels is None:
        return note("no_kernels")
    if layer.weight.device.type != "cpu":
        return note("not_on_cpu")
    if (kind := code_type(layer.layout)) is None:
        return note("unknown_codes")
    if layer.in_features % 8:
        return note("uneven_inputs")
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    scales, is_ordered = layer.layout.panel_scales(layer.stored, 0, 1).dtype, layer.group_of is None
    zeros = layer.layout.zeros(layer.stored, 0, 1).dtype if kind is CodeType.integers else None
    sizes = layer.layout.bits, layer.layout.group, layer.in_features
    key = (type(layer.layout), kind, *sizes, scales, zeros, is_ordered, multiplies_bytes(layer), tile_rows)
    if key not in _tried:
        _tried[key] = next(
            filter(None, (_difference(layer, dtype, kernels, tile_rows) for dtype in FORMATS)), None
        )
    return _tried[key]


def _difference(layer: GroupedLinear, dtype: torch.dtype, kernels: Kernels, tile_rows: int) -> Note | None:
    outputs = min(TRIAL_OUTPUTS, layer.out_features)
    trial = Groups.of(layer, kernels, Workspace(), outputs, tile_rows)
    trial.matrix.bias = None  # it is added in the same way to every product
    x = trial_rows(layer.in_features, dtype, tile_rows)
    with torch.no_grad():
        # rows in bytes are multiplied by the weights that are stored, others by these in the rows'
        # format
        rows, of_weights = (
            (rounded_by_parts(x.float()), torch.float32) if multiplies_bytes(layer) else (x, dtype)
        )
        expected = nn.functional.linear(rows, layer.unpacked(0, outputs, of_weights))
        return difference(trial.product(x), expected, TOLERANCE[dtype])
