"""Fused experts in panels, in the place of a family's own parameters: a mixture's experts are most
of its weights.

A parameter's memory is exchanged for memory of the same size that holds panels, so that a second
copy exists only of one parameter at a time. Until `unpack`, its numbers are in another order, and
nobody but C can read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.experts.form import Form, apart
from runner_engine.kernels.shared_numbers import Matrix
from runner_engine.matmul import huge_pages


@dataclass(frozen=True)
class PanelsOfExpert:
    """A matrix in panels, somewhere in a parameter's memory."""

    matrix: Matrix
    inputs: int
    tensors: tuple[torch.Tensor, ...]  # the parameter, and a bias

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Rows must have the format of the weights."""
        return (self.tensors[0].dtype,)


@dataclass(frozen=True)
class PackedParameter:
    """A parameter of fused experts whose memory holds panels."""

    weight: torch.Tensor  # shares its memory with the family's parameter
    form: Form
    matrices: tuple[str, ...]  # that it holds of each expert
    width: int  # outputs of a panel

    @classmethod
    def of(
        cls, weight: torch.Tensor, form: Form, matrices: tuple[str, ...], width: int, mapped: MappedFiles
    ) -> PackedParameter:
        """Put a parameter's matrices into panels; `fits` says whether that is possible."""
        packed = cls(weight, form, matrices, width)
        memory = huge_pages.empty(*weight.shape, dtype=weight.dtype)
        for number, of_expert in enumerate(weight):
            for matrix, panels in packed._panels(memory[number]):
                steps = apart(form, matrix, of_expert).contiguous().view(torch.int32)
                panels.copy_(steps.view(panels.shape[0], width, -1).transpose(1, 2))
        address, size = weight.data_ptr(), weight.nbytes
        _exchange(weight, memory)
        mapped.release(address, size)
        return packed

    def unpack(self) -> None:
        """Give the parameter its numbers back, in the family's order."""
        memory = torch.empty(self.weight.shape, dtype=self.weight.dtype)
        for number, of_expert in enumerate(self.weight):
            for matrix, panels in self._panels(of_expert):
                into = apart(self.form, matrix, memory[number])
                into.copy_(panels.transpose(1, 2).reshape(into.shape[0], -1).contiguous().view(into.dtype))
        _exchange(self.weight, memory)

    def of_expert(
        self, number: int, biases: Mapping[str, torch.Tensor | None], tile_rows: int
    ) -> list[PanelsOfExpert]:
        """Return an expert's matrices as C reads them."""
        found = []
        for matrix, panels in self._panels(self.weight[number]):
            bias, outputs = biases[matrix], panels.shape[0] * self.width
            described = Matrix(
                weight=panels.data_ptr(),
                bias=None if bias is None else bias.data_ptr(),
                outputs=outputs,
                tile_rows=tile_rows,
            )
            kept = (self.weight,) if bias is None else (self.weight, bias)
            found.append(PanelsOfExpert(described, panels.shape[1] * 4 // self.weight.element_size(), kept))
        return found

    def _panels(self, of_expert: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Go through the panels [panels, steps, outputs of a panel] in the memory of an expert."""
        for matrix, memory in zip(self.matrices, of_expert.view(-1).chunk(len(self.matrices)), strict=True):
            outputs = apart(self.form, matrix, of_expert).shape[0]
            yield matrix, memory.view(torch.int32).view(outputs // self.width, -1, self.width)


def fits(weight: torch.Tensor, form: Form, matrices: tuple[str, ...], width: int) -> bool:
    """Whether a parameter's matrices fill whole panels, so that these take no more memory than it
    has."""
    shapes = [apart(form, matrix, weight[0]).shape for matrix in matrices]
    return all(outputs % width == 0 and inputs * weight.element_size() % 4 == 0 for outputs, inputs in shapes)


def _exchange(weight: torch.Tensor, memory: torch.Tensor) -> None:
    with torch.no_grad():
        weight.set_(memory)  # type: ignore[call-overload]
