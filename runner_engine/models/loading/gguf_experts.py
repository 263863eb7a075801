"""The experts of a .gguf file: matrices of three dimensions, which keep their blocks, one layer for
each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base import DataError
from runner_engine.checkpoints.architectures.base import EXPERT_PARTS, GATE_AND_UP
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.experts import Form, SeparateExperts, apart, form_of, separated
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES
from runner_engine.models.loading.gguf_tensors import numbers_of, stored_bytes


def fill(model: Any, path: str, tensors: dict[str, Tensor], keeps_blocks: bool) -> set[str]:
    """Give a layer's experts their weights; return the names in the model that these had, none if
    it has no experts.

    tensors: by their names in the file, without the block's number.
    """
    try:
        family = model.get_submodule(path)
    except AttributeError:
        return set()
    form = form_of(family)
    if form is None:
        return set()
    experts = (
        separated(family) if keeps_blocks and any(one.dtype in TYPES for one in tensors.values()) else None
    )
    for name, tensor in tensors.items():
        part, _, kind = name.rpartition(".")
        matrices = ("gate_proj", "up_proj") if part == GATE_AND_UP else (EXPERT_PARTS[part],)
        for at, matrix in enumerate(matrices):
            if kind == "weight" and experts is not None and tensor.dtype in TYPES:
                _keep(experts, matrix, tensor, at, len(matrices))
            else:
                _unpack(family, form, matrix, kind, tensor, at, len(matrices))
    if experts is not None:
        model.set_submodule(path, experts)
    return {f"{path}.{name}" for name in _expected(form)}


def _expected(form: Form) -> set[str]:
    fused = {form.fused_name(matrix) for matrix in form.matrices}
    return fused | {f"{name}_bias" for name in fused if form.has_bias}


def _keep(experts: SeparateExperts, matrix: str, tensor: Tensor, at: int, of: int) -> None:
    """Let each expert's layer be blocks of the file: those of its share of a tensor."""
    stored = stored_bytes(tensor)
    outputs = tensor.shape[1] // of
    for number in range(experts.num_experts):
        expert = experts.expert(number)
        like = expert.get_submodule(matrix)
        assert isinstance(like, nn.Linear)
        if (outputs, tensor.shape[2]) != (like.out_features, like.in_features) or len(
            stored
        ) != experts.num_experts:
            shape = [experts.num_experts, like.out_features * of, like.in_features]
            raise DataError(
                f"tensor {tensor.name} is {list(tensor.shape)}, and the model's experts are {shape}",
                code="mismatch",
            )
        own = stored[number, at * outputs : (at + 1) * outputs]
        expert.add_module(matrix, GgufLinear(like, own, tensor.dtype, None))


def _unpack(family: Any, form: Form, matrix: str, kind: str, tensor: Tensor, at: int, of: int) -> None:
    """Write the numbers of a matrix, or of a bias, of all experts into the family's parameter."""
    name = form.fused_name(matrix)
    parameter = getattr(family, name if kind == "weight" else f"{name}_bias")
    values = torch.from_numpy(numbers_of(tensor))
    outputs = values.shape[1] // of
    with torch.no_grad():
        for number, of_expert in enumerate(values[:, at * outputs : (at + 1) * outputs]):
            own = apart(form, matrix, parameter[number])
            if own.shape != of_expert.shape or len(values) != len(parameter):
                raise DataError(
                    f"tensor {tensor.name} is {list(values.shape)}, which does not fit the model's experts",
                    code="mismatch",
                )
            own.copy_(of_expert)
