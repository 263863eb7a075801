"""Applies several unmerged adapters to one base model. Each token uses the adapter of its request.

The matrices that all adapters have for a layer are concatenated, so that a layer needs two small
matmuls for all tokens of a pass, however many adapters they use (like Punica and S-LoRA on GPUs).
Between the two, each token's activations of other adapters are masked out. PEFT reads each adapter
and its scaling; the model's layers stay its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runner_base import ConfigError
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.models.lora import peft, unmerged
from runner_engine.models.lora.adapter_report import AdapterReport, ScaledPair
from runner_engine.models.lora.unmerged import CHILD, AdapterSizes, UnmergedMatrices

ATTRIBUTE = "adapters_of_rows"  # of a model that has several


class TokenAdapters:
    """Selects an adapter for each token of a forward pass."""

    def __init__(self, adapter_names: Sequence[str]) -> None:
        self.names = tuple(adapter_names)
        self._number: Mapping[str | None, int] = {
            None: len(adapter_names),
            **{name: number for number, name in enumerate(adapter_names)},
        }
        self.of_tokens: PassAdapters | None = None

    @contextmanager
    def assign_adapters_to_tokens(self, adapter_names: Sequence[str | None]) -> Iterator[None]:
        """Context manager that assigns an adapter name to each token of a forward pass. None
        selects the base model.
        """
        numbers = [self._number[name] for name in adapter_names]
        present = sorted({*numbers} - {len(self.names)})
        self.of_tokens = PassAdapters(numbers, present) if present else None
        try:
            yield
        finally:
            self.of_tokens = None


class PassAdapters:
    """The adapter index of each token in a forward pass. The highest index means the base model."""

    def __init__(self, adapter_indices: Sequence[int], used_indices: Sequence[int]) -> None:
        self.numbers = adapter_indices
        self.count, self.first, self.last = len(adapter_indices), used_indices[0], used_indices[-1]
        self._factors: dict[tuple[torch.device, AdapterSizes], tuple[Tensor, Tensor]] = {}

    def compute_lora_scalings_per_token(
        self, sizes: AdapterSizes, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the scaling of each LoRA rank for each token, and a mask of the ranks that the
        token does not use.

        Layers of equal sizes share the cached result.
        """
        key = device, sizes
        if key not in self._factors:
            first, last = self.find_rank_range(sizes)
            of_adapter = torch.zeros(len(sizes.ranks) + 1, last - first, dtype=torch.float32)
            for number in range(self.first, self.last + 1):
                start = sizes.starts[number] - first
                of_adapter[number, start : start + sizes.ranks[number]] = sizes.scalings[number]
            numbers = torch.tensor(self.numbers, dtype=torch.long, device=device)
            factors = of_adapter.to(device)[numbers]
            self._factors[key] = factors, factors == 0
        return self._factors[key]

    def find_rank_range(self, sizes: AdapterSizes) -> tuple[int, int]:
        return sizes.starts[self.first], sizes.starts[self.last] + sizes.ranks[self.last]


class MultiAdapterMatrices(UnmergedMatrices):
    """The concatenated LoRA matrices of all adapters for one layer, in float32 like in PEFT."""

    def __init__(self, lora_pairs: Sequence[ScaledPair | None], token_adapters: TokenAdapters) -> None:
        """Concatenate the LoRA pairs of all adapters. A pair is None if its adapter does not change
        this layer.
        """
        super().__init__()
        ranks = tuple(0 if pair is None else len(pair.a) for pair in lora_pairs)
        starts = tuple(sum(ranks[:number]) for number in range(len(ranks)))
        self._sizes = AdapterSizes(
            ranks, starts, tuple(0.0 if pair is None else float(pair.scaling) for pair in lora_pairs)
        )
        there = [pair for pair in lora_pairs if pair is not None]
        self.A = nn.Parameter(torch.cat([pair.a for pair in there]), requires_grad=False)
        of_out = torch.cat([pair.b for pair in there], dim=1).t().contiguous()
        self.B = nn.Parameter(of_out, requires_grad=False)  # [all ranks, outputs]
        self.rows = token_adapters

    @property
    def sizes(self) -> AdapterSizes:
        return self._sizes

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        return self.A, self.B

    def add_lora_output(self, path: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        of_tokens = self.rows.of_tokens
        if of_tokens is None:
            return output
        first, last = of_tokens.find_rank_range(self.sizes)
        if first == last:
            return output
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        if len(x) != of_tokens.count:
            raise ConfigError(
                f"{path} gets {len(x)} activations for {of_tokens.count} tokens, so each token's adapter "
                "is unknown. Use each adapter alone (lora=peft)",
                key="lora",
                value="several",
                code="unsupported",
            )
        factors, is_others = of_tokens.compute_lora_scalings_per_token(self.sizes, x.device)
        low = x.to(self.A.dtype) @ self.A[first:last].t()
        low = (low * factors).masked_fill_(is_others, 0)
        more = (low @ self.B[first:last]).view(output.shape)
        return (output + more).to(output.dtype)


def attach_all_adapters(base: Any, resolved: ResolvedModel) -> AdapterReport:
    """Attach all configured adapters to a base model. Returns one report on all adapters together."""
    name, found, reports = resolved.spec.model.name, dict[str, dict[str, ScaledPair]](), []
    for lora, one in zip(resolved.spec.lora.selectable_adapters, resolved.single_adapter_models, strict=True):
        place = one.files.adapter
        assert place is not None
        adapted, report = peft.load_peft_adapter(base, lora, place, name)
        pairs = peft.copy_lora_pairs(adapted)
        if not peft.remove(adapted):
            raise ConfigError(
                f"{lora.label} changes the base model's weights (init_lora_weights in adapter_config.json), "
                "so it cannot be combined with other adapters. Use lora=peft",
                code="unsupported",
            )
        if not math.isfinite(report.delta_norm):
            raise ConfigError(f"{lora.label} contains NaN or infinity", code="damaged")
        found[lora.path_key] = pairs
        reports.append(report)
    rows = TokenAdapters(resolved.spec.lora.adapter_names)
    for path in dict.fromkeys(path for pairs in found.values() for path in pairs):
        layer = base.get_submodule(path)
        own = MultiAdapterMatrices([pairs.get(path) for pairs in found.values()], rows)
        layer.add_module(CHILD, own)
        own.hook = layer.register_forward_hook(partial(own.add_lora_output, path))
    setattr(base, ATTRIBUTE, rows)
    return _combine_adapter_reports(resolved.spec.lora.adapter_names, reports)


def find_per_token_adapter_selector(model: Any) -> TokenAdapters | None:
    """Return the object that selects adapters for a model with several adapters. None for any other model."""
    found: TokenAdapters | None = getattr(model, ATTRIBUTE, None)
    return found


def detach_all_adapters(model: Any) -> bool:
    """Detach all adapters from a model, which restores the base model."""
    vars(model).pop(ATTRIBUTE, None)
    return unmerged.detach_lora_matrices(model)


def _combine_adapter_reports(adapter_names: Sequence[str], reports: Sequence[AdapterReport]) -> AdapterReport:
    words = [
        f"{name}: {report.modules} modules of rank {report.rank}"
        for name, report in zip(adapter_names, reports, strict=True)
    ]
    return AdapterReport(
        max(report.modules for report in reports),
        max(report.rank for report in reports),
        sum(report.parameters for report in reports),
        math.hypot(*(report.delta_norm for report in reports)),
        tuple(one for report in reports for one in report.notes),
        tuple(words),
    )
