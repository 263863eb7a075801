"""Computes all experts of a layer in one C call (kernels/experts.h).

Each expert multiplies all of its tokens at once.

transformers gathers each expert's tokens, multiplies, and adds the results with torch operations,
which take longer than the matmuls of a few tokens. Here the weights of a used expert are read once
per pass, and those of other experts not at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.experts import UnsortedRouter, is_expert_block, takes_rows_sorted_by_expert
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.backend_choice import read_forced_backend
from runner_engine.matmul.grouped.expert_layer import ExpertLayer, ExpertWorkspace, UnsupportedExperts
from runner_engine.matmul.grouped.expert_packing import PackedParameter
from runner_engine.matmul.grouped.expert_sources import (
    BlockExperts,
    ExpertReadContext,
    ExpertSource,
    find_experts,
)
from runner_engine.matmul.layer_weights import LayerWeights, multiply_with_kernel

FORCED = "RUNNER_EXPERTS"
GROUPED, PLAIN = "grouped", "plain"
TRIAL_ROWS, CHOSEN = 3, 2
# of the largest number of a trial beside the family's own
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@dataclass
class GroupedExperts:
    """Expert layers of a model whose `forward` methods are replaced by C calls.

    A block with a router of its own (JetMoE) keeps its `forward`; its layers' methods are replaced.
    """

    layers: dict[nn.Module, ExpertLayer] = field(default_factory=dict)
    replaced: list[nn.Module] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    packed: list[PackedParameter] = field(default_factory=list)

    @classmethod
    def replace_expert_layers(
        cls,
        model: nn.Module,
        kernels: Kernels | None,
        matrices: Mapping[nn.Module, LayerWeights],
        tile_rows: Mapping[torch.dtype, int],
    ) -> GroupedExperts:
        """Replace the `forward` of all expert layers that the C kernels support.

        matrices: linear layers whose weights C already reads. tile_rows: of plain packed weights, by dtype.
        """
        found = cls()
        if kernels is None or read_forced_backend(FORCED, (GROUPED, PLAIN)) == PLAIN:
            return found
        reading = ExpertReadContext(kernels, matrices, tile_rows, ExpertWorkspace(), MappedFiles())
        dtype = next(
            (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32
        )
        for module in list(model.modules()):
            try:
                layer = found._build_expert_layer(module, dtype, reading)
            except UnsupportedExperts as unsupported:
                slow = note("slow_experts", reason=unsupported.reason)
                found.notes += [] if slow in found.notes else [slow]
                continue
            if layer is None:
                continue
            found.layers[module] = layer
            if not is_expert_block(module):
                is_sorted = takes_rows_sorted_by_expert(module)
                module.forward = (
                    layer.compute_sorted_expert_outputs if is_sorted else _build_expert_forward(module, layer)
                )
                found.replaced.append(module)
        return found

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a token's expert output does not depend on other tokens in the forward pass."""
        return all(layer.is_by_row for layer in self.layers.values())

    def restore(self) -> None:
        """Restore the original `forward` of all expert layers and the layout of packed parameters."""
        for module in self.replaced:
            del module.forward
        for packed in self.packed:
            packed.unpack()
        self.layers, self.packed, self.replaced = {}, [], []

    def _build_expert_layer(
        self, module: nn.Module, dtype: torch.dtype, context: ExpertReadContext
    ) -> ExpertLayer | None:
        """Build the C expert layer of a module, or return None if the module has no experts.

        Raises UnsupportedExperts if C cannot compute the experts.
        """
        described = find_experts(module, dtype)
        if described is None:
            return None
        trial = _ExpertTrial.create_with_random_inputs(described)
        if isinstance(described, BlockExperts):
            trial = _BlockTrial.create_for_block(described)
        expected = trial.compute_original_output(module)
        layer, packed = described.read_experts(context)
        if wrong := trial.make_output_difference_note(layer, expected):
            for one in packed:
                one.unpack()
            raise UnsupportedExperts(wrong)
        self.packed += packed
        if isinstance(described, BlockExperts) and packed:
            for part, parameter in zip(described.layers, packed, strict=True):
                tile_rows = context.tile_rows.get(described.dtype, 0)
                part.forward = _build_block_forward(parameter, context.kernels, tile_rows)
                self.replaced.append(part)
        return layer


def _build_expert_forward(module: nn.Module, layer: ExpertLayer) -> Callable[..., torch.Tensor]:
    """Build a new `forward` for a module.

    It accepts positional arguments and the original argument names.
    """
    signature = inspect.signature(module.forward)

    def forward(*args: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return layer(*(signature.bind(*args, **named).args if named else args))

    return forward


def _build_block_forward(
    parameter: PackedParameter, kernels: Kernels, tile_rows: int
) -> Callable[[torch.Tensor, list[int]], torch.Tensor]:
    """Build a new `forward` for a module with one matrix for each expert: rows are sorted by expert."""
    no_bias = dict.fromkeys(parameter.matrices)
    of_experts = [
        parameter.build_expert_matrices(number, no_bias, tile_rows) for number in range(len(parameter.weight))
    ]

    def forward(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        outputs = [
            torch.cat([multiply_with_kernel(kernels, some, matrix) for matrix in matrices], dim=-1)
            for some, matrices in zip(torch.split(rows, counts), of_experts, strict=True)
        ]
        return torch.cat(outputs)

    return forward


@dataclass(frozen=True)
class _ExpertTrial:
    """Random inputs for comparing the C kernels with a layer's original experts in PyTorch."""

    rows: torch.Tensor
    index: torch.Tensor
    weights: torch.Tensor
    num_sorted_experts: int  # 0 for experts that get the index

    @classmethod
    def create_with_random_inputs(cls, source: ExpertSource) -> _ExpertTrial:
        random = torch.Generator().manual_seed(0)
        experts, hidden, dtype = source.experts, source.hidden, source.dtype
        rows = torch.randn(TRIAL_ROWS, hidden, generator=random, dtype=torch.float32).to(dtype)
        index = torch.stack([torch.randperm(experts, generator=random)[:CHOSEN] for _ in range(TRIAL_ROWS)])
        weights = torch.rand(index.shape, generator=random, dtype=torch.float32).to(dtype)
        return cls(rows, index, weights, experts if source.form.takes_rows_sorted_by_expert else 0)

    def compute_original_output(self, module: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = module(*self._forward_inputs)
        return result

    @property
    def _forward_inputs(self) -> tuple[torch.Tensor, ...]:
        """The arguments of the experts' `forward`."""
        if not self.num_sorted_experts:
            return self.rows, self.index, self.weights
        scores = self.weights.new_zeros(len(self.rows), self.num_sorted_experts)
        scores.scatter_(1, self.index, self.weights)
        return ((scores.T[..., None] * self.rows).flatten(0, 1),)

    def make_output_difference_note(self, layer: ExpertLayer, expected_output: torch.Tensor) -> Note | None:
        compute = layer.compute_sorted_expert_outputs if self.num_sorted_experts else layer
        found, expected_output = compute(*self._forward_inputs).float(), expected_output.float()
        off = float((found - expected_output).abs().max() / expected_output.abs().max().clamp(min=1e-9))
        is_right = off <= TOLERANCE[self.rows.dtype]
        return None if is_right else note("results_off", off=off)


class _BlockTrial(_ExpertTrial):
    """The same for a block with a router of its own, which chooses the experts."""

    @classmethod
    def create_for_block(cls, source: BlockExperts) -> _BlockTrial:
        rows = _ExpertTrial.create_with_random_inputs(source).rows
        with torch.no_grad():
            _, weights, index = UnsortedRouter(source.block)(rows)
        return cls(rows, index, weights, 0)

    def compute_original_output(self, module: Any) -> torch.Tensor:
        """Return the block's output. In attention, a ReLU stands for what its queries find."""
        with torch.no_grad():
            if hasattr(module, "activation"):
                result: torch.Tensor = module(self.rows[None])
            else:
                queries, _, order = module.map(self.rows[None])
                result = module.reduce(torch.relu(queries), order)
        return result[0]
