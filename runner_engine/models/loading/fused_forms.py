"""Formats that have the codes of all experts of a layer in one tensor: its tensors, and what one
expert's layer holds.

The tensors are named by what follows the name of the family's own parameter,
`experts.gate_up_proj`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from runner_base import DataError
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, Shapes, StoredLayout, Types
from runner_engine.models.layouts.float4 import BYTES, Mxfp4Layout
from runner_engine.models.layouts.float8 import EXPONENTS, FLOAT8, BlockFloat8Layout, Float8Layout
from runner_engine.models.layouts.modelopt import FOUR_BIT_GROUP, ModelOptFloat8Layout, ModelOptNvfp4Layout
from runner_engine.quantization.grouped import GroupSettings

Parts = dict[str, torch.Tensor]
EXPONENT_GROUP = 32


@dataclass(frozen=True)
class FusedForm(ABC):
    """A format; settings: what config.json says of it."""

    settings: GroupSettings
    codes: ClassVar[str] = ""  # what follows the parameter's name in that of the codes
    types: ClassVar[dict[str, Types]]
    own_names: ClassVar[dict[str, str]]  # the names that a layer of one expert has for the tensors
    optional: ClassVar[tuple[str, ...]] = ()
    is_transposed: ClassVar[bool] = False  # outputs are the last dimension, [experts, inputs, outputs]

    @abstractmethod
    def shapes(self, experts: int, outputs: int, inputs: int, matrices: int) -> dict[str, Shapes]:
        """Return the shapes that each tensor may have; outputs: of all matrices in the
        parameter."""

    @abstractmethod
    def layout(self, inputs: int, outputs: int, parts: Parts) -> StoredLayout:
        """Return the layout of one expert's matrix, from its parts of the tensors."""

    def of_expert(self, name: str, tensor: torch.Tensor, number: int) -> torch.Tensor:
        """Return what a tensor has for an expert, outputs first; a number alone is for all."""
        if tensor.dim() < 2:
            return tensor
        return tensor[number].T if self.is_transposed else tensor[number]

    def ready(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """Return a matrix's part as its layout has it."""
        return part


class Mxfp4Form(FusedForm):
    """gpt-oss: two codes in a byte, [experts, outputs, groups, 16], and exponents."""

    codes: ClassVar[str] = "_blocks"
    types: ClassVar[dict[str, Types]] = {"_blocks": BYTES, "_scales": BYTES}
    own_names: ClassVar[dict[str, str]] = {"_blocks": "weight_packed", "_scales": "weight_scale"}

    def shapes(self, experts: int, outputs: int, inputs: int, matrices: int) -> dict[str, Shapes]:
        """Inputs are whole groups."""
        _check_groups(inputs, EXPONENT_GROUP)
        groups = experts, outputs, inputs // EXPONENT_GROUP
        return {"_blocks": [(*groups, EXPONENT_GROUP // 2)], "_scales": [groups]}

    def layout(self, inputs: int, outputs: int, parts: Parts) -> StoredLayout:
        """As where each expert is by itself."""
        return Mxfp4Layout(4, EXPONENT_GROUP, inputs, outputs)

    def ready(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """The groups of an output lie behind each other."""
        return part.flatten(1) if name == "_blocks" else part


class BlockFloat8Form(FusedForm):
    """transformers' method fp8: [experts, outputs, inputs], with a scale for each block of each
    expert's matrix."""

    types: ClassVar[dict[str, Types]] = {"": FLOAT8, "_scale_inv": SCALES | EXPONENTS}
    own_names: ClassVar[dict[str, str]] = {"": "weight", "_scale_inv": "weight_scale_inv"}

    def shapes(self, experts: int, outputs: int, inputs: int, matrices: int) -> dict[str, Shapes]:
        """No block belongs to gate and up."""
        each, (of_outputs, group) = outputs // matrices, self._block(outputs // matrices, inputs)
        if matrices > 1 and each > of_outputs and each % of_outputs:
            raise DataError(
                f"blocks of {of_outputs} outputs reach from gate_proj into up_proj, which have {each} each",
                code="unsupported",
            )
        return {
            "": [(experts, outputs, inputs)],
            "_scale_inv": [(experts, matrices * -(-each // of_outputs), -(-inputs // group))],
        }

    def layout(self, inputs: int, outputs: int, parts: Parts) -> StoredLayout:
        """As where each expert is by itself."""
        of_outputs, group = self._block(outputs, inputs)
        return BlockFloat8Layout(8, group, inputs, outputs, of_outputs)

    def _block(self, outputs: int, inputs: int) -> tuple[int, int]:
        of_outputs, group = self.settings.outputs, self.settings.group
        return outputs if of_outputs == -1 else of_outputs, inputs if group == -1 else min(group, inputs)


class RowsFloat8Form(FusedForm):
    """FBGEMM's Llama 4: [experts, inputs, outputs], with a scale for each output."""

    types: ClassVar[dict[str, Types]] = {"": FLOAT8, "_scale": SCALES}
    own_names: ClassVar[dict[str, str]] = {"": "weight", "_scale": "weight_scale"}
    is_transposed: ClassVar[bool] = True

    def shapes(self, experts: int, outputs: int, inputs: int, matrices: int) -> dict[str, Shapes]:
        """The scales of gate and up lie otherwise than those of down."""
        return {"": [(experts, inputs, outputs)], "_scale": [(experts, 1, outputs), (experts, outputs, 1)]}

    def of_expert(self, name: str, tensor: torch.Tensor, number: int) -> torch.Tensor:
        """One scale after another."""
        return tensor[number].reshape(-1, 1) if name == "_scale" else super().of_expert(name, tensor, number)

    def layout(self, inputs: int, outputs: int, parts: Parts) -> StoredLayout:
        """As where each expert is by itself."""
        return Float8Layout(8, inputs, inputs, outputs, 1)


class ModelOptForm(FusedForm):
    """Model-Optimizer's Llama 4 and gpt-oss: [experts, inputs, outputs] of float8, or half the
    inputs of NVFP4."""

    types: ClassVar[dict[str, Types]] = {
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

    def shapes(self, experts: int, outputs: int, inputs: int, matrices: int) -> dict[str, Shapes]:
        """The layout checks which of them belong together."""
        return {
            "": [(experts, inputs, outputs), (experts, inputs // 2, outputs)],
            "_weight_scale": [*ONE_NUMBER, (experts, inputs // FOUR_BIT_GROUP, outputs)],
            "_weight_scale_2": ONE_NUMBER,
            "_input_scale": ONE_NUMBER,
        }

    def layout(self, inputs: int, outputs: int, parts: Parts) -> StoredLayout:
        """Two codes in a byte are NVFP4."""
        rounds, is_nvfp4 = "input_scale" in parts, parts["weight"].dtype is torch.uint8
        has_groups = parts["weight_scale"].dim() == 2 and parts["weight_scale"].dtype is torch.float8_e4m3fn
        if is_nvfp4 != has_groups or is_nvfp4 != ("weight_scale_2" in parts):
            raise DataError(
                "codes of 4 bits have weight_scale for groups and weight_scale_2, and float8 one number",
                code="mismatch",
            )
        if parts["weight"].shape != (outputs, inputs // 2 if is_nvfp4 else inputs):
            raise DataError(
                f"{list(parts['weight'].shape)} codes, of a matrix of {outputs} outputs, {inputs} inputs",
                code="mismatch",
            )
        if not is_nvfp4:
            return ModelOptFloat8Layout(8, inputs, inputs, outputs, outputs, rows="static" if rounds else "")
        _check_groups(inputs, FOUR_BIT_GROUP)
        return ModelOptNvfp4Layout(4, FOUR_BIT_GROUP, inputs, outputs, rows="local" if rounds else "")


FORMS: dict[str, type[FusedForm]] = {  # by the layout of GroupSettings
    "mxfp4_fused": Mxfp4Form,
    "float8_blocks": BlockFloat8Form,
    "float8": RowsFloat8Form,
    "modelopt": ModelOptForm,
}


def _check_groups(inputs: int, group: int) -> None:
    if inputs % group:
        raise DataError(f"{inputs} inputs are not whole groups of {group}", code="mismatch")
