"""The experts of a layer in the format of the C kernels (kernels/expert_structs.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import (
    compute_expert_workspace_nbytes,
    compute_quantized_workspace_nbytes,
)
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.expert_structures import EXPERT_MATRICES, EXPERT_PRODUCT_BYTES, ExpertSet
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import Kernels, get_tensor_address
from runner_engine.matmul.activation_formats import get_activation_quantization_parameters
from runner_engine.matmul.grouped.gate_formulas import GateFormula
from runner_engine.matmul.layer_weights import LayerWeights


class UnsupportedExperts(Exception):
    """Raised with the reason if the C kernels cannot compute the experts of a layer."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class PlainExpertWeights:
    """An unquantized expert matrix in torch's layout [outputs, inputs]."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def matrix(self) -> Matrix:
        """The C description of the matrix."""
        outputs, inputs = self.weight.shape
        bias = None if self.bias is None else get_tensor_address(self.bias, self.weight.dtype, outputs)
        at = get_tensor_address(self.weight, self.weight.dtype, outputs, inputs)
        return Matrix(weight=at, bias=bias, outputs=outputs, kind=WeightFormat.plain_rows)

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Supported dtypes of activations."""
        return (self.weight.dtype,)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class ExpertWorkspace:
    """Buffer that holds the activations grouped by expert. All layers share this buffer."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def get_buffer(self, nbytes: int) -> torch.Tensor:
        if nbytes > self._bytes.numel():
            self._bytes = torch.empty(nbytes, dtype=torch.uint8)
        return self._bytes


@dataclass
class ExpertLayer:
    """All experts of a layer in the format of the C kernels."""

    kernels: Kernels
    dtype: torch.dtype
    set: ExpertSet
    weights: Sequence[LayerWeights]  # keeps the tensors alive whose addresses are in the matrices
    matrices: ctypes.Array[Matrix]
    workspace: ExpertWorkspace
    is_by_row: bool = True  # a row's sums do not depend on other rows

    def __call__(
        self, hidden: torch.Tensor, expert_ids: torch.Tensor, expert_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return, for each token, the weighted sum of its experts' outputs.

        hidden: [tokens, hidden]; expert_ids and expert_weights: [tokens, chosen experts].
        """
        of, rows = self.set, hidden.contiguous().view(-1, self.set.hidden)
        tokens, chosen = len(rows), expert_ids.shape[-1]
        if rows.dtype is not self.dtype or rows.device.type != "cpu" or expert_ids.numel() != tokens * chosen:
            raise ValueError(
                f"the experts need activations in {self.dtype} on the CPU, but got {list(hidden.shape)} "
                f"in {hidden.dtype} on {hidden.device}"
            )
        ids = expert_ids.to(torch.int64).contiguous()
        factors = expert_weights.reshape(tokens, chosen).to(torch.float32).contiguous()
        of.chosen = chosen
        workspace, result = (
            self.workspace.get_buffer(self.compute_workspace_nbytes(tokens * chosen)),
            torch.empty_like(rows),
        )
        self.kernels(
            "experts",
            rows.dtype,
            rows.data_ptr(),
            tokens,
            ctypes.addressof(of),
            ids.data_ptr(),
            factors.data_ptr(),
            int(expert_weights.dtype is rows.dtype),
            workspace.data_ptr(),
            workspace.nbytes,
            result.data_ptr(),
        )
        return result.view(hidden.shape)

    def compute_sorted_expert_outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the experts' outputs for rows [experts * tokens, hidden] in the order of the experts.

        A row of zeros belongs to a token that did not choose the expert. Its output is zero.
        """
        rows = hidden.view(-1, self.set.hidden)
        (places,) = rows.any(dim=-1).nonzero(as_tuple=True)
        numbers = places // (len(rows) // self.set.experts)
        results = torch.zeros_like(rows)
        results[places] = self(rows[places], numbers[:, None], rows.new_ones((len(places), 1)))
        return results

    def compute_workspace_nbytes(self, num_activations: int) -> int:
        """Return the workspace bytes of a forward pass with `num_activations` token-expert pairs."""
        of = self.set
        needed = compute_expert_workspace_nbytes(
            num_activations, of.experts, of.hidden, of.inner, self.dtype.itemsize, EXPERT_PRODUCT_BYTES
        )
        if of.needs_workspace:
            needed += compute_quantized_workspace_nbytes(
                num_activations, max(of.hidden, of.inner), torch.get_num_threads()
            )
        return needed

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[LayerWeights],
        formula: GateFormula,
        has_gate: bool,
        kernels: Kernels,
        workspace: ExpertWorkspace,
        dtype: torch.dtype,
    ) -> ExpertLayer:
        """Build the layer from its experts' weight matrices.

        weights: for each expert, its gate (if any), up and down matrix.
        """
        each = EXPERT_MATRICES if has_gate else EXPERT_MATRICES - 1
        experts, down, up = len(weights) // each, weights[each - 1], weights[each - 2]
        if up.inputs != down.matrix.outputs or up.matrix.outputs != down.inputs:
            raise UnsupportedExperts(note("expert_sizes_differ"))
        matrices = (Matrix * (EXPERT_MATRICES * experts))()
        for number, one in enumerate(weights):
            if dtype not in one.formats:
                raise UnsupportedExperts(note("expert_rows_format"))
            matrices[number // each * EXPERT_MATRICES + EXPERT_MATRICES - each + number % each] = one.matrix
        _check_same_activation_format([one.matrix for one in weights], each)
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


def _check_same_activation_format(matrices: Sequence[Matrix], matrices_per_expert: int) -> None:
    """Raise UnsupportedExperts unless all experts quantize their activations the same way."""
    is_down = [number % matrices_per_expert == matrices_per_expert - 1 for number in range(len(matrices))]
    for kind in (True, False):
        formats = {
            get_activation_quantization_parameters(one)
            for one, down in zip(matrices, is_down, strict=True)
            if down is kind
        }
        if len(formats) > 1 and any(WeightFormat(int(one[0])).has_int8_activations for one in formats):
            raise UnsupportedExperts(note("expert_rows_quantized_differently"))
    pairs = (
        zip(matrices[::matrices_per_expert], matrices[1::matrices_per_expert], strict=True)
        if matrices_per_expert == EXPERT_MATRICES
        else ()
    )
    if any(
        (*get_activation_quantization_parameters(gate), gate.block)
        != (*get_activation_quantization_parameters(up), up.block)
        for gate, up in pairs
    ):
        raise UnsupportedExperts(note("gate_matrices_quantized_differently"))
