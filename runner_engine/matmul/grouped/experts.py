"""A layer's experts in one call of C (kernels/experts.h): each is multiplied by all of its rows at
once.

transformers takes each expert's rows out, multiplies, and adds them up by operations of torch,
which cost more time than the products of a few rows. Here the weights of an expert are read once
for a pass, and those of others not at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.choice import requested_way
from runner_engine.matmul.grouped.described import DescribedExperts, Reading, described_experts
from runner_engine.matmul.grouped.layer import ExpertLayer, ExpertWorkspace, Unsupported
from runner_engine.matmul.grouped.packing import PackedParameter
from runner_engine.matmul.matrices import LayerWeights

FORCED = "RUNNER_EXPERTS"
GROUPED, PLAIN = "grouped", "plain"
TRIAL_ROWS, CHOSEN = 3, 2
# of the largest number of a trial beside the family's own
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@dataclass
class GroupedExperts:
    """The experts of a model whose `forward` is replaced, after a trial beside the family's own."""

    layers: dict[nn.Module, ExpertLayer] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    packed: list[PackedParameter] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        kernels: Kernels | None,
        matrices: Mapping[nn.Module, LayerWeights],
        tile_rows: Mapping[torch.dtype, int],
    ) -> GroupedExperts:
        """Replace what can be.

        matrices: of the linear layers whose weights C already reads. tile_rows: of plain weights in
        panels, by dtype.
        """
        found = cls()
        if kernels is None or requested_way(FORCED, (GROUPED, PLAIN)) == PLAIN:
            return found
        reading = Reading(kernels, matrices, tile_rows, ExpertWorkspace(), MappedFiles())
        dtype = next(
            (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32
        )
        for module in list(model.modules()):
            try:
                layer = found._replacement(module, dtype, reading)
            except Unsupported as unsupported:
                slow = note("slow_experts", reason=unsupported.reason)
                found.notes += [] if slow in found.notes else [slow]
                continue
            if layer is not None:
                module.forward = _forward(module, layer)
                found.layers[module] = layer
        return found

    @property
    def is_by_row(self) -> bool:
        """Whether a row's sums depend on no other row."""
        return all(layer.is_by_row for layer in self.layers.values())

    def restore(self) -> None:
        """Give the experts their own functions back, and their parameters their own order."""
        for module in self.layers:
            del module.forward
        for packed in self.packed:
            packed.unpack()
        self.layers, self.packed = {}, []

    def _replacement(self, module: nn.Module, dtype: torch.dtype, reading: Reading) -> ExpertLayer | None:
        """Return what stands in place of a module; None if it is none of experts, Unsupported if it
        has to stay."""
        described = described_experts(module, dtype)
        if described is None:
            return None
        trial = _Trial.of(described)
        expected = trial.of_family(module)
        layer, packed = described.read(reading)
        if wrong := trial.difference(layer, expected):
            for one in packed:
                one.unpack()
            raise Unsupported(wrong)
        self.packed += packed
        return layer


def _forward(module: nn.Module, layer: ExpertLayer) -> Callable[..., torch.Tensor]:
    """Return what stands in place of a module's function, with arguments by place or by the
    family's names."""
    signature = inspect.signature(module.forward)

    def forward(*args: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return layer(*(signature.bind(*args, **named).args if named else args))

    return forward


@dataclass(frozen=True)
class _Trial:
    """Some rows that go through a layer of experts."""

    rows: torch.Tensor
    index: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, described: DescribedExperts) -> _Trial:
        """Return rows for such experts."""
        random = torch.Generator().manual_seed(0)
        experts, hidden, dtype = described.experts, described.hidden, described.dtype
        rows = torch.randn(TRIAL_ROWS, hidden, generator=random, dtype=torch.float32).to(dtype)
        index = torch.stack([torch.randperm(experts, generator=random)[:CHOSEN] for _ in range(TRIAL_ROWS)])
        weights = torch.rand(index.shape, generator=random, dtype=torch.float32).to(dtype)
        return cls(rows, index, weights)

    def of_family(self, module: nn.Module) -> torch.Tensor:
        """Return what the family's own function makes of the rows."""
        with torch.no_grad():
            result: torch.Tensor = module(self.rows, self.index, self.weights)
        return result

    def difference(self, layer: ExpertLayer, expected: torch.Tensor) -> Note | None:
        """Return by how much a layer's results are off; None if that is only rounding."""
        found, expected = layer(self.rows, self.index, self.weights).float(), expected.float()
        off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
        is_right = off <= TOLERANCE[self.rows.dtype]
        return None if is_right else note("results_off", off=off)
