"""Finds the experts of a module, fused or separate, and prepares their weights for the C kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from runner_base.notes import note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.experts import (
    ExpertFormat,
    SeparateExperts,
    detect_expert_format,
    is_expert_block,
    join_gate_and_up,
    select_expert_matrix,
)
from runner_engine.experts.expert_blocks import MATRICES as BLOCK_MATRICES
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul.backend_selection import (
    MatmulBackend,
    is_unquantized_linear,
    read_forced_matmul_backend,
)
from runner_engine.matmul.grouped.expert_layer import (
    ExpertLayer,
    ExpertWorkspace,
    PlainExpertWeights,
    UnsupportedExperts,
)
from runner_engine.matmul.grouped.expert_packing import PackedParameter, can_pack_in_place
from runner_engine.matmul.grouped.gate_formulas import GateFormula, find_c_formula_for_gate
from runner_engine.matmul.layer_weights import LayerWeights
from runner_engine.models.lora.adapted_parameters import has_adapted_parameters

DOWN = "down_proj"
NOT_OURS = (MatmulBackend.onednn, MatmulBackend.plain)  # that RUNNER_PRODUCTS may force


@dataclass
class ExpertReadContext:
    """Kernels, buffers and settings for converting a model's experts to the format of the C
    kernels.
    """

    kernels: Kernels
    matrices: Mapping[nn.Module, LayerWeights]  # of linear layers whose weights C already reads
    tile_rows: Mapping[torch.dtype, int]  # of plain weights in panels
    workspace: ExpertWorkspace
    mapped: MappedFiles


class ExpertSource(Protocol):
    """Base class for the experts of a layer, fused or separate."""

    experts: int
    hidden: int
    dtype: torch.dtype
    form: ExpertFormat

    def read_experts(self, context: ExpertReadContext) -> tuple[ExpertLayer, list[PackedParameter]]:
        """Convert the experts to the format of the C kernels.

        Returns the layer and its packed parameters.

        Raises UnsupportedExperts if the kernels do not support the experts.
        """


def find_experts(module: nn.Module, model_dtype: torch.dtype) -> ExpertSource | None:
    """Return a module's experts, or None if it has none.

    Raises UnsupportedExperts if the C kernels cannot read their weights.
    """
    if isinstance(module, SeparateExperts):
        return _SeparateExpertSource(module, model_dtype)
    if is_expert_block(module):
        return BlockExperts(module)
    form = detect_expert_format(module)
    if form is not None and has_adapted_parameters(module):
        raise UnsupportedExperts(note("adapted_whole_layer"))
    return None if form is None else _FusedExperts(module, form)


class _FusedExperts:
    """Experts that are stored in fused three-dimensional parameters."""

    def __init__(self, module: nn.Module, expert_format: ExpertFormat) -> None:
        _check_expert_format(expert_format)
        self.module, self.form = module, expert_format
        self.fused = {
            matrix: _require_unquantized_parameter(module, expert_format.fused_name(matrix))
            for matrix in expert_format.matrices
        }
        self.biases = {
            matrix: _require_unquantized_parameter(module, f"{expert_format.fused_name(matrix)}_bias")
            if expert_format.has_bias
            else None
            for matrix in self.fused
        }
        self.dtype, self.experts = self.fused[DOWN].dtype, len(self.fused[DOWN])
        self.hidden = select_expert_matrix(expert_format, DOWN, self.fused[DOWN][0]).shape[0]
        if any(weight.dtype != self.dtype for weight in self.fused.values()):
            raise UnsupportedExperts(note("expert_formats_differ"))

    def read_experts(self, context: ExpertReadContext) -> tuple[ExpertLayer, list[PackedParameter]]:
        formula = _find_gate_formula_or_raise(self._apply_gate, self.module, self.form)
        names = dict.fromkeys(self.form.fused_name(matrix) for matrix in self.form.matrices)
        of_parameter = [
            tuple(matrix for matrix in self.form.matrices if self.form.fused_name(matrix) == name)
            for name in names
        ]
        is_packed = read_forced_matmul_backend() not in NOT_OURS and all(
            can_pack_in_place(self.fused[matrices[0]], self.form, matrices, context.kernels.panel_width)
            for matrices in of_parameter
        )
        if not is_packed and (self.form.is_transposed or not self.form.is_concatenated):
            raise UnsupportedExperts(note("expert_panels_not_filled"))
        biases = [self._select_expert_biases(number) for number in range(self.experts)]
        if not is_packed:
            weights = [
                one
                for number in range(self.experts)
                for one in self._select_expert_weights(number, biases[number])
            ]
            return self._build_layer(weights, formula, context), []
        width, tile_rows = context.kernels.panel_width, context.tile_rows.get(self.dtype, 0)
        packed = [
            PackedParameter.pack(self.fused[matrices[0]], self.form, matrices, width, context.mapped)
            for matrices in of_parameter
        ]
        weights = [
            one
            for number in range(self.experts)
            for parameter in packed
            for one in parameter.build_expert_matrices(number, biases[number], tile_rows)
        ]
        return self._build_layer(weights, formula, context), packed

    def _apply_gate(self, *inner: torch.Tensor) -> torch.Tensor:
        family: Any = self.module
        if self.form.takes_rows_sorted_by_expert:  # a family of before there was a name for its gate
            gate, up = inner
            gated: torch.Tensor = family.act_fn(gate) * up
            return gated
        result: torch.Tensor = (
            family._apply_gate(join_gate_and_up(self.form, *inner))
            if self.form.has_gate
            else family.act_fn(*inner)
        )
        return result

    def _build_layer(
        self, weights: list[LayerWeights], formula: GateFormula, context: ExpertReadContext
    ) -> ExpertLayer:
        kernels, workspace = context.kernels, context.workspace
        return ExpertLayer.from_weights(weights, formula, self.form.has_gate, kernels, workspace, self.dtype)

    def _select_expert_biases(self, expert: int) -> dict[str, torch.Tensor | None]:
        return {
            matrix: None
            if bias is None
            else select_expert_matrix(self.form, matrix, bias[expert].detach()).contiguous()
            for matrix, bias in self.biases.items()
        }

    def _select_expert_weights(
        self, expert: int, biases: Mapping[str, torch.Tensor | None]
    ) -> list[LayerWeights]:
        return [
            PlainExpertWeights(
                select_expert_matrix(self.form, matrix, fused[expert].detach()), biases[matrix]
            )
            for matrix, fused in self.fused.items()
        ]


class BlockExperts(_FusedExperts):
    """Experts of a block with one module for the first and one for the last matrices of all experts (JetMoE).

    The block's bias is added to the output of each expert: the router's weights sum to 1.
    """

    def __init__(self, block: Any) -> None:
        self.block, self.layers = block, [getattr(block, name) for name in BLOCK_MATRICES]
        if any(map(has_adapted_parameters, self.layers)):
            raise UnsupportedExperts(note("adapted_whole_layer"))
        self.module, self.form = block, ExpertFormat(has_gate=hasattr(block, "activation"))
        first, last = (_require_unquantized_parameter(layer, "weight") for layer in self.layers)
        bias = _require_unquantized_parameter(block, "bias")
        self.fused = {matrix: last if matrix == DOWN else first for matrix in self.form.matrices}
        self.biases = dict.fromkeys(self.fused) | {DOWN: bias.expand(len(last), -1)}
        self.dtype, self.experts, self.hidden = bias.dtype, len(last), len(bias)
        if {first.dtype, last.dtype} != {self.dtype}:
            raise UnsupportedExperts(note("expert_formats_differ"))

    def _apply_gate(self, *inner: torch.Tensor) -> torch.Tensor:
        if self.form.has_gate:
            gated: torch.Tensor = self.block.activation(inner[0]) * inner[1]
            return gated
        return torch.relu(*inner)  # of the trial: the fused forward pass has attention there


class _SeparateExpertSource:
    """Experts that are separate modules with linear layers."""

    def __init__(self, module: SeparateExperts, dtype: torch.dtype) -> None:
        _check_expert_format(module.form)
        self.module, self.experts, self.form = module, module.num_experts, module.form
        self.layers: list[Any] = [
            module.get_expert(number).get_submodule(matrix)
            for number in range(module.num_experts)
            for matrix in module.form.matrices
        ]
        self.hidden = self.layers[len(module.form.matrices) - 1].out_features
        self.dtype = dtype

    def read_experts(self, context: ExpertReadContext) -> tuple[ExpertLayer, list[PackedParameter]]:
        form = self.form
        formula = _find_gate_formula_or_raise(self.module.apply_gate, self.module._family[0], form)
        weights = [self._get_layer_weights(layer, context) for layer in self.layers]
        kernels, workspace = context.kernels, context.workspace
        return ExpertLayer.from_weights(weights, formula, form.has_gate, kernels, workspace, self.dtype), []

    def _get_layer_weights(self, layer: Any, context: ExpertReadContext) -> LayerWeights:
        if layer in context.matrices:
            return context.matrices[layer]
        if not is_unquantized_linear(layer) or not layer.weight.is_contiguous():
            raise UnsupportedExperts(note("expert_weights_unknown"))
        return PlainExpertWeights(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _check_expert_format(expert_format: ExpertFormat) -> None:
    if expert_format.has_post_norm:
        raise UnsupportedExperts(note("norm_after_expert"))


def _find_gate_formula_or_raise(
    apply_gate: Callable[..., torch.Tensor], original_experts: nn.Module, expert_format: ExpertFormat
) -> GateFormula:
    formula = find_c_formula_for_gate(apply_gate, original_experts, expert_format.has_gate)
    if formula is None:
        raise UnsupportedExperts(note("other_gate_formula"))
    return formula


def _require_unquantized_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """Return a module's parameter.

    Raises UnsupportedExperts unless the parameter is an unquantized tensor on the CPU.
    """
    weight = module._parameters.get(name)
    if weight is None or type(weight.data) is not torch.Tensor or weight.device.type != "cpu":
        raise UnsupportedExperts(note("no_plain_parameter", name=name))
    if weight.dtype not in FORMATS or not weight.is_contiguous():
        raise UnsupportedExperts(note("parameter_format_or_order", name=name))
    return weight
