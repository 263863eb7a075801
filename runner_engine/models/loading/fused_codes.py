"""Codes of all experts of a layer in one tensor, as gpt-oss has them in MXFP4: each expert's layers hold views of them.

Blocks [experts, outputs, groups, 16] have two codes in a byte, scales [experts, outputs, groups] are exponents. Outputs
of gate and up alternate where the family's own parameters do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from runner_base import DataError, few
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.experts import SeparateExperts, apart, separated
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.base import Types, wrong
from runner_engine.models.layouts.float4 import BYTES, Mxfp4Layout

LAYOUT = "mxfp4_fused"  # in GroupSettings
BLOCKS, SCALES = "_blocks", "_scales"
GROUP, BYTES_OF_GROUP = 32, 16


class FusedCodes(nn.Module):
    """Stands in place of a layer's experts while its tensors are read, under the names that the file has for them."""

    def __init__(self, family: nn.Module, found: dict[str, Tensor]) -> None:
        super().__init__()
        made = separated(family)
        first = next(iter(found.values()))
        if made is None:
            raise wrong(first, f"{type(family).__name__} has no fused experts that can be taken apart")
        self._made = [made]  # in a list, so that it is no child: its layers have no numbers yet
        self.found = found
        for fused, (outputs, inputs) in self._sizes().items():
            groups = inputs // GROUP
            if inputs % GROUP:
                raise wrong(first, f"{inputs} inputs are not whole groups of {GROUP}")
            shape = made.num_experts, outputs, groups
            self._expect(f"{fused}{BLOCKS}", (*shape, BYTES_OF_GROUP), BYTES)
            self._expect(f"{fused}{SCALES}", shape, BYTES)
            if made.form.has_bias:
                bias = family._parameters[f"{fused}_bias"]
                assert bias is not None
                self.register_parameter(f"{fused}_bias", bias)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Return the outputs and inputs of each fused parameter."""
        form, expert = self._made[0].form, self._made[0].expert(0)
        sizes: dict[str, tuple[int, int]] = {}
        for matrix in form.matrices:
            layer = cast(nn.Linear, expert.get_submodule(matrix))
            outputs, _ = sizes.get(form.fused_name(matrix), (0, 0))
            sizes[form.fused_name(matrix)] = outputs + layer.out_features, layer.in_features
        return sizes

    def _expect(self, name: str, shape: tuple[int, ...], types: Types) -> None:
        """Have a parameter without memory; DataError where the file has another tensor."""
        tensor = self.found.get(name)
        if tensor is None:
            raise wrong(next(iter(self.found.values())), f"the checkpoint lacks its {name}")
        if tensor.dtype not in types:
            raise wrong(tensor, f"{tensor.dtype}, and {' or '.join(types)} expected")
        if tensor.shape != shape:
            raise wrong(tensor, f"{list(tensor.shape)}, and these experts have {list(shape)}")
        empty = torch.empty(shape, dtype=types[tensor.dtype], device="meta")
        self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def taken_apart(self) -> tuple[SeparateExperts, dict[str, dict[str, Tensor]]]:
        """Return the experts with views of what was read, and where the tensors of each layer are from, by its path."""
        made, origins = self._made[0], {}
        by_rows = replace(made.form, is_transposed=False)  # an output's codes lie together
        for number in range(made.num_experts):
            for matrix in made.form.matrices:
                fused, like = made.form.fused_name(matrix), made.expert(number).get_submodule(matrix)
                own = {
                    end: apart(by_rows, matrix, cast(nn.Parameter, self._parameters[fused + of_file]).detach()[number])
                    for end, of_file in (("weight_packed", BLOCKS), ("weight_scale", SCALES))
                }
                own["weight_packed"] = own["weight_packed"].flatten(1)
                made.expert(number).add_module(matrix, self._layer(cast(nn.Linear, like), fused, own, matrix, number))
                origins[f"{number}.{matrix}"] = {
                    "weight_packed": self.found[fused + BLOCKS], "weight_scale": self.found[fused + SCALES],
                }  # fmt: skip
        return made, origins

    def _layer(
        self, like: nn.Linear, fused: str, own: dict[str, torch.Tensor], matrix: str, number: int
    ) -> GroupedLinear:
        layout = Mxfp4Layout(4, GROUP, like.in_features, like.out_features)
        layer = GroupedLinear(like, layout, own)
        bias = self._parameters.get(f"{fused}_bias")
        if bias is not None:
            of_layer = apart(self._made[0].form, matrix, bias.detach()[number]).contiguous()
            layer.bias = nn.Parameter(of_layer, requires_grad=False)
        return layer


def put_fused(model: Any, tensors: dict[str, Tensor]) -> None:
    """Put what reads fused codes in place of the experts that the checkpoint has so."""
    paths = dict(model.named_modules())
    fused = sorted({name.rpartition(".")[0] for name in tensors if name.endswith(BLOCKS)})
    used: set[str] = set()
    for stored in fused:
        path = next((one for one in (stored, f"{model.base_model_prefix}.{stored}") if one in paths), None)
        found = {name.rpartition(".")[2]: one for name, one in tensors.items() if name.startswith(f"{stored}.")}
        if path is None:
            raise wrong(next(iter(found.values())), f"{type(model).__name__} has no experts of this name")
        model.set_submodule(path, FusedCodes(paths[path], found))
        used |= {one.name for one in found.values()}
    if left := sorted(name for name in tensors if name.endswith((BLOCKS, SCALES)) and name not in used):
        raise DataError(f"{few(left)} belong to no experts")


def take_apart(model: Any) -> dict[str, dict[str, Tensor]]:
    """Put experts in place of what has read their codes; return the tensors of each layer in its file, by its path."""
    origins: dict[str, dict[str, Tensor]] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, FusedCodes):
            made, own = module.taken_apart()
            model.set_submodule(path, made)
            origins |= {f"{path}.{inner}": tensors for inner, tensors in own.items()}
    return origins
