"""Loads the experts of a .gguf file, which stores the matrices of all experts of a layer in one 3-D
tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base import DataError
from runner_engine.checkpoints.architectures.base import EXPERT_PARTS, GATE_AND_UP
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.experts import (
    ExpertFormat,
    SeparateExperts,
    build_separate_experts,
    detect_expert_format,
    select_expert_matrix,
)
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES
from runner_engine.models.loading.gguf_tensors import dequantize_tensor, memory_map_tensor_blocks


def load_layer_experts(
    model: Any, path: str, tensors: dict[str, TensorLocation], keeps_blocks: bool
) -> set[str]:
    """Load the experts of one layer. Returns the names of the loaded parameters, or an empty set
    without experts.

    tensors: the layer's tensors by name, without the block number.
    """
    try:
        family = model.get_submodule(path)
    except AttributeError:
        return set()
    form = detect_expert_format(family)
    if form is None:
        return set()
    experts = (
        build_separate_experts(family)
        if keeps_blocks and any(one.dtype in TYPES for one in tensors.values())
        else None
    )
    for name, tensor in tensors.items():
        part, _, kind = name.rpartition(".")
        matrices = ("gate_proj", "up_proj") if part == GATE_AND_UP else (EXPERT_PARTS[part],)
        for at, matrix in enumerate(matrices):
            if kind == "weight" and experts is not None and tensor.dtype in TYPES:
                _assign_gguf_blocks_to_experts(experts, matrix, tensor, at, len(matrices))
            else:
                _assign_dequantized_experts(family, form, matrix, kind, tensor, at, len(matrices))
    if experts is not None:
        model.set_submodule(path, experts)
    return {f"{path}.{name}" for name in _list_parameter_names(form)}


def _list_parameter_names(expert_format: ExpertFormat) -> set[str]:
    fused = {expert_format.fused_name(matrix) for matrix in expert_format.matrices}
    return fused | {f"{name}_bias" for name in fused if expert_format.has_bias}


def _assign_gguf_blocks_to_experts(
    experts: SeparateExperts, matrix: str, tensor: TensorLocation, part_index: int, num_parts: int
) -> None:
    """Replace the linear layer `matrix` of each expert by a layer with quantized .gguf blocks as weight.

    The blocks are part `part_index` of `num_parts` parts of a tensor.
    """
    stored = memory_map_tensor_blocks(tensor)
    outputs = tensor.shape[1] // num_parts
    for number in range(experts.num_experts):
        expert = experts.get_expert(number)
        like = expert.get_submodule(matrix)
        assert isinstance(like, nn.Linear)
        if (outputs, tensor.shape[2]) != (like.out_features, like.in_features) or len(
            stored
        ) != experts.num_experts:
            shape = [experts.num_experts, like.out_features * num_parts, like.in_features]
            raise DataError(
                f"tensor {tensor.name} has the shape {list(tensor.shape)}, but the experts need {shape}",
                code="mismatch",
            )
        own = stored[number, part_index * outputs : (part_index + 1) * outputs]
        expert.add_module(matrix, GgufLinear(like, own, tensor.dtype, None))


def _assign_dequantized_experts(
    fused_experts: Any,
    expert_format: ExpertFormat,
    matrix: str,
    parameter_kind: str,
    tensor: TensorLocation,
    part_index: int,
    num_parts: int,
) -> None:
    """Dequantize a matrix or bias of all experts, and copy it into the model's fused parameter."""
    name = expert_format.fused_name(matrix)
    parameter = getattr(fused_experts, name if parameter_kind == "weight" else f"{name}_bias")
    values = torch.from_numpy(dequantize_tensor(tensor))
    outputs = values.shape[1] // num_parts
    with torch.no_grad():
        for number, of_expert in enumerate(values[:, part_index * outputs : (part_index + 1) * outputs]):
            own = select_expert_matrix(expert_format, matrix, parameter[number])
            if own.shape != of_expert.shape or len(values) != len(parameter):
                raise DataError(
                    f"tensor {tensor.name}: the shape {list(values.shape)} does not fit the experts",
                    code="mismatch",
                )
            own.copy_(of_expert)
