"""Packs the weights of fused experts for the C kernels, in the memory of the model's parameters.

Experts are most of a mixture's weights. A parameter's memory is replaced by packed memory of the
same size, so that a second copy exists of only one parameter at a time. Until `unpack`, only C can
read its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.experts.expert_format import ExpertFormat, select_expert_matrix
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.matmul import huge_pages


@dataclass(frozen=True)
class PackedExpertMatrix:
    """A packed matrix of one expert, in the memory of a fused parameter."""

    matrix: Matrix
    inputs: int
    tensors: tuple[torch.Tensor, ...]  # the parameter, and a bias

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        return (self.tensors[0].dtype,)


@dataclass(frozen=True)
class PackedParameter:
    """A fused expert parameter whose memory holds packed blocks for the C kernels."""

    weight: torch.Tensor  # shares its memory with the family's parameter
    form: ExpertFormat
    matrices: tuple[str, ...]  # that it holds of each expert
    width: int  # outputs of a panel

    @classmethod
    def pack(
        cls,
        weight: torch.Tensor,
        expert_format: ExpertFormat,
        matrix_names: tuple[str, ...],
        outputs_per_block: int,
        mapped_files: MappedFiles,
    ) -> PackedParameter:
        """Pack a parameter's matrices in place. `can_pack_in_place` must have returned True."""
        packed = cls(weight, expert_format, matrix_names, outputs_per_block)
        memory = huge_pages.allocate_weight_tensor(*weight.shape, dtype=weight.dtype)
        for number, of_expert in enumerate(weight):
            for matrix, panels in packed._iter_packed_matrices(memory[number]):
                steps = select_expert_matrix(expert_format, matrix, of_expert).contiguous().view(torch.int32)
                panels.copy_(steps.view(panels.shape[0], outputs_per_block, -1).transpose(1, 2))
        address, size = weight.data_ptr(), weight.nbytes
        _set_parameter_memory(weight, memory)
        mapped_files.release_pages(address, size)
        return packed

    def unpack(self) -> None:
        """Restore the original weights in the parameter's original layout."""
        memory = torch.empty(self.weight.shape, dtype=self.weight.dtype)
        for number, of_expert in enumerate(self.weight):
            for matrix, panels in self._iter_packed_matrices(of_expert):
                into = select_expert_matrix(self.form, matrix, memory[number])
                into.copy_(panels.transpose(1, 2).reshape(into.shape[0], -1).contiguous().view(into.dtype))
        _set_parameter_memory(self.weight, memory)

    def build_expert_matrices(
        self, expert: int, biases: Mapping[str, torch.Tensor | None], tile_rows: int
    ) -> list[PackedExpertMatrix]:
        found = []
        for matrix, panels in self._iter_packed_matrices(self.weight[expert]):
            bias, outputs = biases[matrix], panels.shape[0] * self.width
            described = Matrix(
                weight=panels.data_ptr(),
                bias=None if bias is None else bias.data_ptr(),
                outputs=outputs,
                tile_rows=tile_rows,
            )
            kept = (self.weight,) if bias is None else (self.weight, bias)
            found.append(
                PackedExpertMatrix(described, panels.shape[1] * 4 // self.weight.element_size(), kept)
            )
        return found

    def _iter_packed_matrices(self, expert_memory: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        for matrix, memory in zip(
            self.matrices, expert_memory.view(-1).chunk(len(self.matrices)), strict=True
        ):
            outputs = select_expert_matrix(self.form, matrix, expert_memory).shape[0]
            yield matrix, memory.view(torch.int32).view(outputs // self.width, -1, self.width)


def can_pack_in_place(
    weight: torch.Tensor, expert_format: ExpertFormat, matrix_names: tuple[str, ...], outputs_per_block: int
) -> bool:
    """Whether a parameter's matrices fill complete packed blocks, so that packing needs no more memory."""
    shapes = [select_expert_matrix(expert_format, matrix, weight[0]).shape for matrix in matrix_names]
    return all(
        outputs % outputs_per_block == 0 and inputs * weight.element_size() % 4 == 0
        for outputs, inputs in shapes
    )


def _set_parameter_memory(weight: torch.Tensor, memory: torch.Tensor) -> None:
    with torch.no_grad():
        weight.set_(memory)  # type: ignore[call-overload]
