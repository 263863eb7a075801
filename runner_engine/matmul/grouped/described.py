"""What a module's experts are, fused by their family or each a module of its own, and how their
weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from runner_base.notes import note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.experts import Form, SeparateExperts, apart, form_of, together
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul.grouped.gates import GateFormula, formula_of
from runner_engine.matmul.grouped.layer import ExpertLayer, ExpertWorkspace, PlainRows, Unsupported
from runner_engine.matmul.grouped.packing import PackedParameter, fits
from runner_engine.matmul.matrices import LayerWeights
from runner_engine.matmul.products import Way, is_plain, requested
from runner_engine.models.lora.inside import is_adapted_inside

DOWN = "down_proj"
NOT_OURS = (Way.onednn, Way.plain)  # that RUNNER_PRODUCTS may force


@dataclass
class Reading:
    """With what the experts of a model are read."""

    kernels: Kernels
    matrices: Mapping[nn.Module, LayerWeights]  # of linear layers whose weights C already reads
    tile_rows: Mapping[torch.dtype, int]  # of plain weights in panels
    workspace: ExpertWorkspace
    mapped: MappedFiles


class DescribedExperts(Protocol):
    """The experts of a layer."""

    experts: int
    hidden: int
    dtype: torch.dtype

    def read(self, reading: Reading) -> tuple[ExpertLayer, list[PackedParameter]]:
        """Return them as C reads them, and the parameters that were packed for it; Unsupported
        where that cannot be."""


def described_experts(module: nn.Module, dtype: torch.dtype) -> DescribedExperts | None:
    """Return a module's experts; None if it has none, Unsupported where C cannot read them. dtype:
    the model's."""
    if isinstance(module, SeparateExperts):
        return _Separate(module, dtype)
    form = form_of(module)
    if form is not None and is_adapted_inside(module):
        raise Unsupported(note("adapted_whole_layer"))
    return None if form is None else _Fused(module, form)


class _Fused:
    """Experts in parameters with three dimensions."""

    def __init__(self, module: nn.Module, form: Form) -> None:
        _check_form(form)
        self.module, self.form = module, form
        self.fused = {matrix: _plain(module, form.fused_name(matrix)) for matrix in form.matrices}
        self.biases = {
            matrix: _plain(module, f"{form.fused_name(matrix)}_bias") if form.has_bias else None
            for matrix in self.fused
        }
        self.dtype, self.experts = self.fused[DOWN].dtype, len(self.fused[DOWN])
        self.hidden = apart(form, DOWN, self.fused[DOWN][0]).shape[0]
        if any(weight.dtype != self.dtype for weight in self.fused.values()):
            raise Unsupported(note("expert_formats_differ"))

    def read(self, reading: Reading) -> tuple[ExpertLayer, list[PackedParameter]]:
        formula = _formula(self._between, self.module, self.form)
        names = dict.fromkeys(self.form.fused_name(matrix) for matrix in self.form.matrices)
        of_name = {
            name: tuple(matrix for matrix in self.form.matrices if self.form.fused_name(matrix) == name)
            for name in names
        }
        is_packed = requested() not in NOT_OURS and all(
            fits(_plain(self.module, name), self.form, matrices, reading.kernels.panel_width)
            for name, matrices in of_name.items()
        )
        if not is_packed and (self.form.is_transposed or not self.form.is_concatenated):
            raise Unsupported(note("expert_panels_not_filled"))
        biases = [self._biases_of(number) for number in range(self.experts)]
        if not is_packed:
            weights = [one for number in range(self.experts) for one in self._rows_of(number, biases[number])]
            return self._layer(weights, formula, reading), []
        width, tile_rows = reading.kernels.panel_width, reading.tile_rows.get(self.dtype, 0)
        packed = [
            PackedParameter.of(_plain(self.module, name), self.form, matrices, width, reading.mapped)
            for name, matrices in of_name.items()
        ]
        weights = [
            one
            for number in range(self.experts)
            for parameter in packed
            for one in parameter.of_expert(number, biases[number], tile_rows)
        ]
        return self._layer(weights, formula, reading), packed

    def _between(self, *inner: torch.Tensor) -> torch.Tensor:
        family: Any = self.module
        result: torch.Tensor = (
            family._apply_gate(together(self.form, *inner)) if self.form.has_gate else family.act_fn(*inner)
        )
        return result

    def _layer(self, weights: list[LayerWeights], formula: GateFormula, reading: Reading) -> ExpertLayer:
        kernels, workspace = reading.kernels, reading.workspace
        return ExpertLayer.of(weights, formula, self.form.has_gate, kernels, workspace, self.dtype)

    def _biases_of(self, number: int) -> dict[str, torch.Tensor | None]:
        return {
            matrix: None if bias is None else apart(self.form, matrix, bias[number].detach()).contiguous()
            for matrix, bias in self.biases.items()
        }

    def _rows_of(self, number: int, biases: Mapping[str, torch.Tensor | None]) -> list[LayerWeights]:
        return [
            PlainRows(apart(self.form, matrix, fused[number].detach()), biases[matrix])
            for matrix, fused in self.fused.items()
        ]


class _Separate:
    """Experts with linear layers of their own."""

    def __init__(self, module: SeparateExperts, dtype: torch.dtype) -> None:
        _check_form(module.form)
        self.module, self.experts = module, module.num_experts
        self.layers: list[Any] = [
            module.expert(number).get_submodule(matrix)
            for number in range(module.num_experts)
            for matrix in module.form.matrices
        ]
        self.hidden = self.layers[len(module.form.matrices) - 1].out_features
        self.dtype = dtype

    def read(self, reading: Reading) -> tuple[ExpertLayer, list[PackedParameter]]:
        form = self.module.form
        formula = _formula(self.module.between, self.module._family[0], form)
        weights = [self._weights_of(layer, reading) for layer in self.layers]
        kernels, workspace = reading.kernels, reading.workspace
        return ExpertLayer.of(weights, formula, form.has_gate, kernels, workspace, self.dtype), []

    def _weights_of(self, layer: Any, reading: Reading) -> LayerWeights:
        if layer in reading.matrices:
            return reading.matrices[layer]
        if not is_plain(layer) or not layer.weight.is_contiguous():
            raise Unsupported(note("expert_weights_unknown"))
        return PlainRows(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _check_form(form: Form) -> None:
    if form.has_post_norm:
        raise Unsupported(note("norm_after_expert"))
    if form.takes_sorted_rows:
        raise Unsupported(note("experts_get_all_rows"))


def _formula(between: Callable[..., torch.Tensor], family: nn.Module, form: Form) -> GateFormula:
    formula = formula_of(between, family, form.has_gate)
    if formula is None:
        raise Unsupported(note("other_gate_formula"))
    return formula


def _plain(module: nn.Module, name: str) -> nn.Parameter:
    """Return a parameter of a module; Unsupported where it is no plain one on the CPU."""
    weight = module._parameters.get(name)
    if weight is None or type(weight.data) is not torch.Tensor or weight.device.type != "cpu":
        raise Unsupported(note("no_plain_parameter", name=name))
    if weight.dtype not in FORMATS or not weight.is_contiguous():
        raise Unsupported(note("parameter_format_or_order", name=name))
    return weight
