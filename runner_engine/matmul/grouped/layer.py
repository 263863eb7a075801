"""A layer of experts as C reads it (kernels/expert_structs.h), and the call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import expert_workspace_bytes, quantized_workspace_bytes
from runner_engine.kernels.expert_numbers import EXPERT_MATRICES, EXPERT_PRODUCT_BYTES, ExpertSet
from runner_engine.kernels.native import Kernels, pointer
from runner_engine.kernels.shared_numbers import Matrix, WeightFormat
from runner_engine.matmul.grouped.gates import GateFormula
from runner_engine.matmul.matrices import LayerWeights
from runner_engine.matmul.row_formats import row_format


class Unsupported(Exception):
    """Why experts are left to the family's own function."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class PlainRows:
    """A plain matrix as torch holds it, output by output."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def matrix(self) -> Matrix:
        """The description that C gets."""
        outputs, inputs = self.weight.shape
        bias = None if self.bias is None else pointer(self.bias, self.weight.dtype, outputs)
        at = pointer(self.weight, self.weight.dtype, outputs, inputs)
        return Matrix(weight=at, bias=bias, outputs=outputs, kind=WeightFormat.plain_rows)

    @property
    def inputs(self) -> int:
        """The width of a row."""
        return self.weight.shape[1]

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Rows must have the format of the weights."""
        return (self.weight.dtype,)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose addresses are in the matrix."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class ExpertWorkspace:
    """Memory in which rows are put in order; it grows with the largest pass, and all layers share
    it."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def of(self, needed: int) -> torch.Tensor:
        """Return at least so many bytes."""
        if needed > self._bytes.numel():
            self._bytes = torch.empty(needed, dtype=torch.uint8)
        return self._bytes


@dataclass
class ExpertLayer:
    """The experts of a layer as C reads them."""

    kernels: Kernels
    dtype: torch.dtype
    set: ExpertSet
    weights: Sequence[LayerWeights]  # keeps the tensors alive whose addresses are in the matrices
    matrices: ctypes.Array[Matrix]
    workspace: ExpertWorkspace
    is_by_row: bool = True  # a row's sums do not depend on other rows

    def __call__(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return for rows [tokens, hidden] the sums of what their experts [tokens, chosen] make of
        them, weighted."""
        of, rows = self.set, hidden.contiguous().view(-1, self.set.hidden)
        tokens, chosen = len(rows), index.shape[-1]
        if rows.dtype is not self.dtype or rows.device.type != "cpu" or index.numel() != tokens * chosen:
            raise ValueError(
                f"rows {list(hidden.shape)} of {hidden.dtype} on {hidden.device} for experts of {self.dtype}"
            )
        ids = index.to(torch.int64).contiguous()
        factors = weights.reshape(tokens, chosen).to(torch.float32).contiguous()
        of.chosen = chosen
        workspace, result = (self.workspace.of(self.workspace_bytes(tokens * chosen)), torch.empty_like(rows))
        self.kernels(
            "experts",
            rows.dtype,
            rows.data_ptr(),
            tokens,
            ctypes.addressof(of),
            ids.data_ptr(),
            factors.data_ptr(),
            int(weights.dtype is rows.dtype),
            workspace.data_ptr(),
            workspace.nbytes,
            result.data_ptr(),
        )
        return result.view(hidden.shape)

    def workspace_bytes(self, rows: int) -> int:
        """Return what a pass with so many rows of chosen experts needs."""
        of = self.set
        needed = expert_workspace_bytes(
            rows, of.experts, of.hidden, of.inner, self.dtype.itemsize, EXPERT_PRODUCT_BYTES
        )
        if of.needs_workspace:
            needed += quantized_workspace_bytes(rows, max(of.hidden, of.inner), torch.get_num_threads())
        return needed

    @classmethod
    def of(
        cls,
        weights: Sequence[LayerWeights],
        formula: GateFormula,
        has_gate: bool,
        kernels: Kernels,
        workspace: ExpertWorkspace,
        dtype: torch.dtype,
    ) -> ExpertLayer:
        """Return a layer; weights: gate if there is one, up and down of the first expert, then of
        the second …"""
        each = EXPERT_MATRICES if has_gate else EXPERT_MATRICES - 1
        experts, down, up = len(weights) // each, weights[each - 1], weights[each - 2]
        if up.inputs != down.matrix.outputs or up.matrix.outputs != down.inputs:
            raise Unsupported(note("expert_sizes_differ"))
        matrices = (Matrix * (EXPERT_MATRICES * experts))()
        for number, one in enumerate(weights):
            if dtype not in one.formats:
                raise Unsupported(note("expert_rows_format"))
            matrices[number // each * EXPERT_MATRICES + EXPERT_MATRICES - each + number % each] = one.matrix
        _check_alike([one.matrix for one in weights], each)
        kinds = {WeightFormat(one.matrix.kind) for one in weights}
        described = ExpertSet(
            experts,
            1,
            down.matrix.outputs,
            down.inputs,
            formula.activation,
            has_gate,
            any(kind.needs_workspace for kind in kinds),
            formula.alpha,
            formula.limit,
            formula.shift,
            ctypes.addressof(matrices),
        )
        marks_outliers = any(
            one.matrix.kind == WeightFormat.row_int8 and one.matrix.threshold for one in weights
        )
        return cls(kernels, dtype, described, weights, matrices, workspace, not marks_outliers)


def _check_alike(matrices: Sequence[Matrix], each: int) -> None:
    """Reject experts whose rows C cannot quantize together, or whose gate it cannot multiply beside
    what is gated."""
    is_down = [number % each == each - 1 for number in range(len(matrices))]
    for kind in (True, False):
        formats = {row_format(one) for one, down in zip(matrices, is_down, strict=True) if down is kind}
        if len(formats) > 1 and any(WeightFormat(int(one[0])).has_byte_rows for one in formats):
            raise Unsupported(note("expert_rows_quantized_differently"))
    pairs = zip(matrices[::each], matrices[1::each], strict=True) if each == EXPERT_MATRICES else ()
    if any((*row_format(gate), gate.block) != (*row_format(up), up.block) for gate, up in pairs):
        raise Unsupported(note("gate_matrices_quantized_differently"))
