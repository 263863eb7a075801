"""Codes of all experts of a layer in one tensor, in a form of fused_forms.py: each expert's layers
hold views of them.

Outputs of gate and up alternate where the family's own parameters do.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from runner_base import DataError, few
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.experts import SeparateExperts, apart, separated
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.base import CODES, Shapes, wrong
from runner_engine.models.loading.fused_forms import FORMS, FusedForm
from runner_engine.quantization.grouped import GroupSettings

LAYOUT = "mxfp4_fused"  # of checkpoints that have nothing else than fused codes
PARAMETER = r"\.experts\.(gate_up_proj|up_proj|down_proj)"


class FusedCodes(nn.Module):
    """Stands in place of a layer's experts while its tensors are read, under the names that the
    file has for them."""

    def __init__(self, family: nn.Module, form: FusedForm, found: dict[str, Tensor]) -> None:
        super().__init__()
        made = separated(family)
        self.first = first = next(one for name, one in found.items() if name.endswith(f"_proj{form.codes}"))
        if made is None:
            raise wrong(
                first, f"{type(family).__name__} has no fused experts that can be taken apart", "unsupported"
            )
        if form.is_transposed and not made.form.is_transposed:
            raise wrong(
                first,
                f"outputs are its last dimension, which is not known of {type(family).__name__}",
                "unsupported",
            )
        self._made = [made]  # in a list, so that it is no child: its layers have no numbers yet
        self.form, self.found = form, found
        for fused, (outputs, inputs, matrices) in self._sizes().items():
            try:
                shapes = form.shapes(made.num_experts, outputs, inputs, matrices)
            except DataError as error:
                raise wrong(first, str(error), error.code) from error
            for end, fitting in shapes.items():
                if f"{fused}{end}" in found or end not in form.optional:
                    self._expect(fused, end, fitting)
            if made.form.has_bias:
                bias = family._parameters[f"{fused}_bias"]
                assert bias is not None
                self.register_parameter(f"{fused}_bias", bias)

    def _sizes(self) -> dict[str, tuple[int, int, int]]:
        """Return the outputs, the inputs and the number of matrices of each fused parameter."""
        form, expert = self._made[0].form, self._made[0].expert(0)
        sizes: dict[str, tuple[int, int, int]] = {}
        for matrix in form.matrices:
            layer = cast(nn.Linear, expert.get_submodule(matrix))
            outputs, _, matrices = sizes.get(form.fused_name(matrix), (0, 0, 0))
            sizes[form.fused_name(matrix)] = (outputs + layer.out_features, layer.in_features, matrices + 1)
        return sizes

    def _expect(self, fused: str, end: str, fitting: Shapes) -> None:
        """Have a parameter without memory; DataError where the file has another tensor."""
        name, types = f"{fused}{end}", self.form.types[end]
        tensor = self.found.get(name)
        if tensor is None:
            raise wrong(self.first, f"the checkpoint lacks its {name}", "damaged")
        if tensor.dtype not in types:
            raise wrong(tensor, f"{tensor.dtype}, and {' or '.join(types)} expected")
        if tensor.shape not in fitting:
            expected = " or ".join(str(list(shape)) for shape in fitting)
            raise wrong(tensor, f"{list(tensor.shape)}, and these experts have {expected}")
        empty = torch.empty(tensor.shape, dtype=types[tensor.dtype], device="meta")
        self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def taken_apart(self) -> tuple[SeparateExperts, dict[str, dict[str, Tensor]]]:
        """Return the experts with views of what was read, and where the tensors of each layer are
        from, by its path."""
        made, origins = self._made[0], {}
        for number in range(made.num_experts):
            for matrix in made.form.matrices:
                layer = self._layer(matrix, number)
                made.expert(number).add_module(matrix, layer)
                fused = made.form.fused_name(matrix)
                ends = {own: end for end, own in self.form.own_names.items()}
                origins[f"{number}.{matrix}"] = {own: self.found[fused + ends[own]] for own in layer.stored}
        return made, origins

    def _layer(self, matrix: str, number: int) -> GroupedLinear:
        made, form = self._made[0], self.form
        fused, like = (
            made.form.fused_name(matrix),
            cast(nn.Linear, made.expert(number).get_submodule(matrix)),
        )
        by_rows = replace(made.form, is_transposed=False)  # `of_expert` puts outputs first
        own: dict[str, torch.Tensor] = {}
        for end, name in form.own_names.items():
            tensor = self._parameters.get(fused + end)
            if tensor is None:
                continue
            part = form.of_expert(end, tensor.detach(), number)
            own[name] = form.ready(end, apart(by_rows, matrix, part)) if part.dim() else part
        try:
            layout = form.layout(like.in_features, like.out_features, own)
        except DataError as error:
            raise wrong(self.found[fused + form.codes], str(error), error.code) from error
        layer = GroupedLinear(like, layout, own)
        bias = self._parameters.get(f"{fused}_bias")
        if bias is not None:
            of_layer = apart(made.form, matrix, bias.detach()[number]).contiguous()
            layer.bias = nn.Parameter(of_layer, requires_grad=False)
        return layer


def put_fused(model: Any, tensors: dict[str, Tensor], settings: GroupSettings) -> set[str]:
    """Put what reads fused codes in place of the experts that the checkpoint has so; return the
    names of these."""
    if settings.layout not in FORMS:
        return set()
    form = FORMS[settings.layout](settings)
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
            raise wrong(next(iter(found.values())), f"{type(model).__name__} has no experts of this name")
        model.set_submodule(path, FusedCodes(paths[path], form, found))
        used |= {one.name for one in found.values()}
    ends = tuple(end for end in form.types if end)
    of_experts = re.compile(f"{PARAMETER}({'|'.join(map(re.escape, ends))})$")
    if left := sorted(name for name in tensors if of_experts.search(name) and name not in used):
        raise DataError(f"{few(left)} belong to no experts", code="mismatch")
    return used


def take_apart(model: Any) -> dict[str, dict[str, Tensor]]:
    """Put experts in place of what has read their codes; return the tensors of each layer in its
    file, by its path."""
    origins: dict[str, dict[str, Tensor]] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, FusedCodes):
            made, own = module.taken_apart()
            model.set_submodule(path, made)
            origins |= {f"{path}.{inner}": tensors for inner, tensors in own.items()}
    return origins
