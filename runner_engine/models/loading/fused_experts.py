"""Loads quantized tensors that each hold all experts of a layer, and creates a view for each expert.

fused_formats.py defines the formats. Outputs of gate and up alternate where the model family's own
parameters do.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from runner_base import DataError, join_first_names
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.experts import SeparateExperts, build_separate_experts, select_expert_matrix
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.base import CODES, Shapes, build_tensor_error
from runner_engine.models.loading.fused_formats import FORMS, FusedFormat
from runner_engine.quantization.grouped import GroupSettings

LAYOUT = "mxfp4_fused"  # of checkpoints that have nothing else than fused codes
PARAMETER = r"\.experts\.(gate_up_proj|up_proj|down_proj)"


class FusedExpertsPlaceholder(nn.Module):
    """Placeholder for a layer's experts while transformers loads their fused quantized tensors."""

    def __init__(
        self, original_experts: nn.Module, fused_format: FusedFormat, tensors: dict[str, TensorLocation]
    ) -> None:
        super().__init__()
        made = build_separate_experts(original_experts)
        self.first = first = next(
            one for name, one in tensors.items() if name.endswith(f"_proj{fused_format.codes}")
        )
        if made is None:
            raise build_tensor_error(
                first,
                f"experts of the class {type(original_experts).__name__} cannot be separated",
                "unsupported",
            )
        if fused_format.is_transposed and not made.form.is_transposed:
            raise build_tensor_error(
                first,
                "the checkpoint stores outputs as the last dimension, but "
                f"{type(original_experts).__name__} stores outputs first",
                "unsupported",
            )
        self._made = [made]  # in a list, so that it is no child: its layers have no numbers yet
        self.form, self.found = fused_format, tensors
        for fused, (outputs, inputs, matrices) in self._compute_parameter_sizes().items():
            try:
                shapes = fused_format.compute_allowed_shapes(made.num_experts, outputs, inputs, matrices)
            except DataError as error:
                raise build_tensor_error(first, str(error), error.code) from error
            for end, fitting in shapes.items():
                if f"{fused}{end}" in tensors or end not in fused_format.optional:
                    self._register_empty_parameter(fused, end, fitting)
            if made.form.has_bias:
                bias = original_experts._parameters[f"{fused}_bias"]
                assert bias is not None
                self.register_parameter(f"{fused}_bias", bias)

    def _compute_parameter_sizes(self) -> dict[str, tuple[int, int, int]]:
        """Map the name of each fused parameter to its number of outputs, inputs and matrices."""
        form, expert = self._made[0].form, self._made[0].get_expert(0)
        sizes: dict[str, tuple[int, int, int]] = {}
        for matrix in form.matrices:
            layer = cast(nn.Linear, expert.get_submodule(matrix))
            outputs, _, matrices = sizes.get(form.fused_name(matrix), (0, 0, 0))
            sizes[form.fused_name(matrix)] = (outputs + layer.out_features, layer.in_features, matrices + 1)
        return sizes

    def _register_empty_parameter(self, fused_name: str, suffix: str, allowed_shapes: Shapes) -> None:
        name, types = f"{fused_name}{suffix}", self.form.types[suffix]
        tensor = self.found.get(name)
        if tensor is None:
            raise build_tensor_error(self.first, f"the checkpoint lacks its {name}", "damaged")
        if tensor.dtype not in types:
            raise build_tensor_error(tensor, f"{tensor.dtype}, but {' or '.join(types)} is expected")
        if tensor.shape not in allowed_shapes:
            expected = " or ".join(str(list(shape)) for shape in allowed_shapes)
            raise build_tensor_error(tensor, f"{list(tensor.shape)}, but these experts need {expected}")
        empty = torch.empty(tensor.shape, dtype=types[tensor.dtype], device="meta")
        self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def split_fused_experts(self) -> tuple[SeparateExperts, dict[str, dict[str, TensorLocation]]]:
        """Split the loaded tensors into separate experts.

        Returns the experts, and the source tensors of each layer by path.
        """
        made, origins = self._made[0], {}
        for number in range(made.num_experts):
            for matrix in made.form.matrices:
                layer = self._build_expert_layer(matrix, number)
                made.get_expert(number).add_module(matrix, layer)
                fused = made.form.fused_name(matrix)
                ends = {own: end for end, own in self.form.own_names.items()}
                origins[f"{number}.{matrix}"] = {own: self.found[fused + ends[own]] for own in layer.stored}
        return made, origins

    def _build_expert_layer(self, matrix: str, expert: int) -> GroupedLinear:
        made, form = self._made[0], self.form
        fused, like = (
            made.form.fused_name(matrix),
            cast(nn.Linear, made.get_expert(expert).get_submodule(matrix)),
        )
        by_rows = replace(made.form, is_transposed=False)  # `of_expert` puts outputs first
        own: dict[str, torch.Tensor] = {}
        for end, name in form.own_names.items():
            tensor = self._parameters.get(fused + end)
            if tensor is None:
                continue
            part = form.select_expert(end, tensor.detach(), expert)
            own[name] = (
                form.convert_slice(end, select_expert_matrix(by_rows, matrix, part)) if part.dim() else part
            )
        try:
            layout = form.build_expert_layout(like.in_features, like.out_features, own)
        except DataError as error:
            raise build_tensor_error(self.found[fused + form.codes], str(error), error.code) from error
        layer = GroupedLinear(like, layout, own)
        bias = self._parameters.get(f"{fused}_bias")
        if bias is not None:
            of_layer = select_expert_matrix(made.form, matrix, bias.detach()[expert]).contiguous()
            layer.bias = nn.Parameter(of_layer, requires_grad=False)
        return layer


def replace_fused_experts_with_placeholders(
    model: Any, tensors: dict[str, TensorLocation], group_settings: GroupSettings
) -> set[str]:
    """Replace fused quantized experts by placeholders until they are loaded. Returns the names of
    their tensors.
    """
    if group_settings.layout not in FORMS:
        return set()
    form = FORMS[group_settings.layout](group_settings)
    is_named = re.compile(f"{PARAMETER}{form.codes}$")
    paths = dict(model.named_modules())
    named = (name for name, one in tensors.items() if is_named.search(name) and one.dtype in CODES)
    used: set[str] = set()
    for stored in sorted({name.rpartition(".")[0] for name in named}):
        path = next((one for one in (stored, f"{model.base_model_prefix}.{stored}") if one in paths), None)
        found = {
            name.rpartition(".")[2]: one for name, one in tensors.items() if name.startswith(f"{stored}.")
        }
        if path is None:
            raise build_tensor_error(
                next(iter(found.values())), f"{type(model).__name__} has no experts with this name"
            )
        model.set_submodule(path, FusedExpertsPlaceholder(paths[path], form, found))
        used |= {one.name for one in found.values()}
    ends = tuple(end for end in form.types if end)
    of_experts = re.compile(f"{PARAMETER}({'|'.join(map(re.escape, ends))})$")
    if left := sorted(name for name in tensors if of_experts.search(name) and name not in used):
        raise DataError(
            f"{join_first_names(left)} do not belong to any experts of the model", code="mismatch"
        )
    return used


def replace_placeholders_with_separate_experts(model: Any) -> dict[str, dict[str, TensorLocation]]:
    """Replace all placeholders by separate experts. Returns the checkpoint tensors of each layer,
    by module path.
    """
    origins: dict[str, dict[str, TensorLocation]] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, FusedExpertsPlaceholder):
            made, own = module.split_fused_experts()
            model.set_submodule(path, made)
            origins |= {f"{path}.{inner}": tensors for inner, tensors in own.items()}
    return origins
