"""Quantization formats with fused experts: one tensor holds the codes of all experts of a layer.

Tensor names are the suffixes after the model family's own parameter name, such as
`experts.gate_up_proj`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from runner_base import DataError
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, DtypesByName, Shapes, StoredLayout
from runner_engine.models.layouts.float4 import BYTES, Mxfp4Layout
from runner_engine.models.layouts.float8 import EXPONENTS, FLOAT8, BlockFloat8Layout, Float8Layout
from runner_engine.models.layouts.modelopt import FOUR_BIT_GROUP, ModelOptFloat8Layout, ModelOptNvfp4Layout
from runner_engine.quantization.grouped import GroupSettings

ExpertTensors = dict[str, torch.Tensor]
EXPONENT_GROUP = 32


@dataclass(frozen=True)
class FusedFormat(ABC):
    """Base class of quantization formats with fused experts. `settings` come from quantization_config."""

    settings: GroupSettings
    codes: ClassVar[str] = ""  # what follows the parameter's name in that of the codes
    types: ClassVar[dict[str, DtypesByName]]
    own_names: ClassVar[dict[str, str]]  # the names that a layer of one expert has for the tensors
    optional: ClassVar[tuple[str, ...]] = ()
    is_transposed: ClassVar[bool] = False  # outputs are the last dimension, [experts, inputs, outputs]

    @abstractmethod
    def compute_allowed_shapes(
        self, num_experts: int, outputs: int, inputs: int, num_matrices: int
    ) -> dict[str, Shapes]:
        """Return the allowed shapes of each tensor by name.

        `outputs` is the number of outputs of all matrices in the fused parameter.
        """

    @abstractmethod
    def build_expert_layout(self, inputs: int, outputs: int, expert_tensors: ExpertTensors) -> StoredLayout:
        """Return the layout of one expert's matrix. `expert_tensors` are the expert's slices of the
        fused tensors.
        """

    def select_expert(self, tensor_suffix: str, tensor: torch.Tensor, expert: int) -> torch.Tensor:
        """Return one expert's slice of a fused tensor, outputs first. A scalar is returned as it
        is, for all experts.
        """
        if tensor.dim() < 2:
            return tensor
        return tensor[expert].T if self.is_transposed else tensor[expert]

    def convert_slice(self, tensor_suffix: str, expert_slice: torch.Tensor) -> torch.Tensor:
        """Reshape an expert's slice to the shape that a tensor of a separate expert has."""
        return expert_slice


class Mxfp4FusedFormat(FusedFormat):
    """gpt-oss's fused experts in MXFP4: two codes per byte, [experts, outputs, groups, 16], and
    exponents as scales.
    """

    codes: ClassVar[str] = "_blocks"
    types: ClassVar[dict[str, DtypesByName]] = {"_blocks": BYTES, "_scales": BYTES}
    own_names: ClassVar[dict[str, str]] = {"_blocks": "weight_packed", "_scales": "weight_scale"}

    def compute_allowed_shapes(
        self, num_experts: int, outputs: int, inputs: int, num_matrices: int
    ) -> dict[str, Shapes]:
        _check_inputs_divisible(inputs, EXPONENT_GROUP)
        groups = num_experts, outputs, inputs // EXPONENT_GROUP
        return {"_blocks": [(*groups, EXPONENT_GROUP // 2)], "_scales": [groups]}

    def build_expert_layout(self, inputs: int, outputs: int, expert_tensors: ExpertTensors) -> StoredLayout:
        return Mxfp4Layout(4, EXPONENT_GROUP, inputs, outputs)

    def convert_slice(self, tensor_suffix: str, expert_slice: torch.Tensor) -> torch.Tensor:
        return expert_slice.flatten(1) if tensor_suffix == "_blocks" else expert_slice


class BlockFloat8FusedFormat(FusedFormat):
    """Fused experts in transformers' fp8 format, [experts, outputs, inputs], with one scale per
    weight block.
    """

    types: ClassVar[dict[str, DtypesByName]] = {"": FLOAT8, "_scale_inv": SCALES | EXPONENTS}
    own_names: ClassVar[dict[str, str]] = {"": "weight", "_scale_inv": "weight_scale_inv"}

    def compute_allowed_shapes(
        self, num_experts: int, outputs: int, inputs: int, num_matrices: int
    ) -> dict[str, Shapes]:
        """Return the allowed shapes of each tensor. Raises DataError if a scale block covers both
        gate_proj and up_proj.
        """
        each, (of_outputs, group) = (
            outputs // num_matrices,
            self._get_block_shape(outputs // num_matrices, inputs),
        )
        if num_matrices > 1 and each > of_outputs and each % of_outputs:
            raise DataError(
                f"blocks of {of_outputs} outputs do not divide the {each} outputs of gate_proj and up_proj",
                code="unsupported",
            )
        return {
            "": [(num_experts, outputs, inputs)],
            "_scale_inv": [(num_experts, num_matrices * -(-each // of_outputs), -(-inputs // group))],
        }

    def build_expert_layout(self, inputs: int, outputs: int, expert_tensors: ExpertTensors) -> StoredLayout:
        of_outputs, group = self._get_block_shape(outputs, inputs)
        return BlockFloat8Layout(8, group, inputs, outputs, of_outputs)

    def _get_block_shape(self, outputs: int, inputs: int) -> tuple[int, int]:
        of_outputs, group = self.settings.outputs, self.settings.group
        return outputs if of_outputs == -1 else of_outputs, inputs if group == -1 else min(group, inputs)


class Float8FusedFormat(FusedFormat):
    """Llama 4's fused experts quantized by FBGEMM: float8 [experts, inputs, outputs], with one scale
    per output.
    """

    types: ClassVar[dict[str, DtypesByName]] = {"": FLOAT8, "_scale": SCALES}
    own_names: ClassVar[dict[str, str]] = {"": "weight", "_scale": "weight_scale"}
    is_transposed: ClassVar[bool] = True

    def compute_allowed_shapes(
        self, num_experts: int, outputs: int, inputs: int, num_matrices: int
    ) -> dict[str, Shapes]:
        return {
            "": [(num_experts, inputs, outputs)],
            "_scale": [(num_experts, 1, outputs), (num_experts, outputs, 1)],
        }

    def select_expert(self, tensor_suffix: str, tensor: torch.Tensor, expert: int) -> torch.Tensor:
        return (
            tensor[expert].reshape(-1, 1)
            if tensor_suffix == "_scale"
            else super().select_expert(tensor_suffix, tensor, expert)
        )

    def build_expert_layout(self, inputs: int, outputs: int, expert_tensors: ExpertTensors) -> StoredLayout:
        return Float8Layout(8, inputs, inputs, outputs, 1)


class ModelOptFusedFormat(FusedFormat):
    """Fused experts of Llama 4 and gpt-oss, quantized by Model-Optimizer to float8 or NVFP4:
    [experts, inputs, outputs].
    """

    types: ClassVar[dict[str, DtypesByName]] = {
        "": FLOAT8 | BYTES,
        "_weight_scale": SCALES | FLOAT8,
        "_weight_scale_2": SCALES,
        "_input_scale": SCALES,
    }
    own_names: ClassVar[dict[str, str]] = {
        "": "weight",
        "_weight_scale": "weight_scale",
        "_weight_scale_2": "weight_scale_2",
        "_input_scale": "input_scale",
    }
    optional: ClassVar[tuple[str, ...]] = ("_weight_scale_2", "_input_scale")
    is_transposed: ClassVar[bool] = True

    def compute_allowed_shapes(
        self, num_experts: int, outputs: int, inputs: int, num_matrices: int
    ) -> dict[str, Shapes]:
        return {
            "": [(num_experts, inputs, outputs), (num_experts, inputs // 2, outputs)],
            "_weight_scale": [*ONE_NUMBER, (num_experts, inputs // FOUR_BIT_GROUP, outputs)],
            "_weight_scale_2": ONE_NUMBER,
            "_input_scale": ONE_NUMBER,
        }

    def build_expert_layout(self, inputs: int, outputs: int, expert_tensors: ExpertTensors) -> StoredLayout:
        """Return an NVFP4 layout if the codes are packed in bytes, otherwise a float8 layout."""
        rounds, is_nvfp4 = "input_scale" in expert_tensors, expert_tensors["weight"].dtype is torch.uint8
        has_groups = (
            expert_tensors["weight_scale"].dim() == 2
            and expert_tensors["weight_scale"].dtype is torch.float8_e4m3fn
        )
        if is_nvfp4 != has_groups or is_nvfp4 != ("weight_scale_2" in expert_tensors):
            raise DataError(
                "4-bit codes need weight_scale per group and weight_scale_2. float8 codes need one scale",
                code="mismatch",
            )
        if expert_tensors["weight"].shape != (outputs, inputs // 2 if is_nvfp4 else inputs):
            raise DataError(
                f"the codes have the shape {list(expert_tensors['weight'].shape)}, which does not fit a matrix "
                f"with {outputs} outputs and {inputs} inputs",
                code="mismatch",
            )
        if not is_nvfp4:
            return ModelOptFloat8Layout(8, inputs, inputs, outputs, outputs, rows="static" if rounds else "")
        _check_inputs_divisible(inputs, FOUR_BIT_GROUP)
        return ModelOptNvfp4Layout(4, FOUR_BIT_GROUP, inputs, outputs, rows="local" if rounds else "")


FORMS: dict[str, type[FusedFormat]] = {  # by the layout of GroupSettings
    "mxfp4_fused": Mxfp4FusedFormat,
    "float8_blocks": BlockFloat8FusedFormat,
    "float8": Float8FusedFormat,
    "modelopt": ModelOptFusedFormat,
}


def _check_inputs_divisible(inputs: int, group_size: int) -> None:
    if inputs % group_size:
        raise DataError(f"{inputs} inputs are not a multiple of the group size {group_size}", code="mismatch")
