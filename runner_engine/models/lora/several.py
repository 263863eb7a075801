"""lora: several – the matrices of several adapters beside one base, whose rows choose among them.

The matrices that all adapters have for a layer stand side by side, so that a layer takes two small
products for all tokens of a pass, however many adapters they have (as Punica and S-LoRA do on GPUs).
A token's own adapter is chosen between the two: what the others' matrices make of it is left out.
PEFT reads each adapter and says what it is multiplied by; the model's layers stay its own.
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
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.models.lora import beside, peft
from runner_engine.models.lora.beside import CHILD, Beside, Sizes
from runner_engine.models.lora.report import AdapterReport, Pair

ATTRIBUTE = "adapters_of_rows"  # of a model that has several


class AdaptersOfRows:
    """The adapters of a model, and which of them the tokens of the pass have that runs."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._number: Mapping[str | None, int] = {
            None: len(names),
            **{name: number for number, name in enumerate(names)},
        }
        self.of_tokens: OfTokens | None = None

    @contextmanager
    def reading(self, names: Sequence[str | None]) -> Iterator[None]:
        """Let the layers compute each token of a pass with its adapter; None: as the base does."""
        numbers = [self._number[name] for name in names]
        present = sorted({*numbers} - {len(self.names)})
        self.of_tokens = OfTokens(numbers, present) if present else None
        try:
            yield
        finally:
            self.of_tokens = None


class OfTokens:
    """The adapters of a pass's tokens, by their numbers; that of the base is one more than the
    last."""

    def __init__(self, numbers: Sequence[int], present: Sequence[int]) -> None:
        self.numbers = numbers
        self.count, self.first, self.last = len(numbers), present[0], present[-1]
        self._factors: dict[tuple[torch.device, Sizes], tuple[Tensor, Tensor]] = {}

    def factors(self, sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what the first products of each token are multiplied by, and which of them are of
        other adapters; layers of the same sizes have the same."""
        key = device, sizes
        if key not in self._factors:
            first, last = self.columns(sizes)
            of_adapter = torch.zeros(len(sizes.ranks) + 1, last - first, dtype=torch.float32)
            for number in range(self.first, self.last + 1):
                start = sizes.starts[number] - first
                of_adapter[number, start : start + sizes.ranks[number]] = sizes.scalings[number]
            numbers = torch.tensor(self.numbers, dtype=torch.long, device=device)
            factors = of_adapter.to(device)[numbers]
            self._factors[key] = factors, factors == 0
        return self._factors[key]

    def columns(self, sizes: Sizes) -> tuple[int, int]:
        """Return from where to where the matrices of these adapters lie."""
        return sizes.starts[self.first], sizes.starts[self.last] + sizes.ranks[self.last]


class SideBySide(Beside):
    """The matrices of all adapters for one layer, in float32 as PEFT has them."""

    def __init__(self, pairs: Sequence[Pair | None], rows: AdaptersOfRows) -> None:
        """pairs: by adapter; None where it leaves the layer alone."""
        super().__init__()
        ranks = tuple(0 if pair is None else len(pair.a) for pair in pairs)
        starts = tuple(sum(ranks[:number]) for number in range(len(ranks)))
        self._sizes = Sizes(
            ranks, starts, tuple(0.0 if pair is None else float(pair.scaling) for pair in pairs)
        )
        there = [pair for pair in pairs if pair is not None]
        self.A = nn.Parameter(torch.cat([pair.a for pair in there]), requires_grad=False)
        of_out = torch.cat([pair.b for pair in there], dim=1).t().contiguous()
        self.B = nn.Parameter(of_out, requires_grad=False)  # [all ranks, outputs]
        self.rows = rows

    @property
    def sizes(self) -> Sizes:
        """Return the ranks of the adapters."""
        return self._sizes

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return A and B of all adapters."""
        return self.A, self.B

    def add(self, path: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return what the layer computes, with what each token's adapter adds."""
        of_tokens = self.rows.of_tokens
        if of_tokens is None:
            return output
        first, last = of_tokens.columns(self.sizes)
        if first == last:
            return output
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        if len(x) != of_tokens.count:
            raise ConfigError(
                f"{path} reads {len(x)} rows in a pass of {of_tokens.count} tokens, so that nobody knows "
                "which adapter is whose: serve each adapter alone (lora=peft)",
                key="lora",
                value="several",
                code="unsupported",
            )
        factors, is_others = of_tokens.factors(self.sizes, x.device)
        low = x.to(self.A.dtype) @ self.A[first:last].t()
        low = (low * factors).masked_fill_(is_others, 0)
        more = (low @ self.B[first:last]).view(output.shape)
        return (output + more).to(output.dtype)


def apply(base: Any, resolved: ResolvedModel) -> AdapterReport:
    """Put all adapters beside the layers of a base, and say what they were applied to."""
    name, found, reports = resolved.spec.model.name, dict[str, dict[str, Pair]](), []
    for lora, one in zip(resolved.spec.lora.each, resolved.apart, strict=True):
        place = one.files.adapter
        assert place is not None
        adapted, report = peft.read(base, lora, place, name)
        pairs = peft.pairs_by_path(adapted)
        if not peft.remove(adapted):
            raise ConfigError(
                f"{lora.label} changes the base's own weights (its adapter_config.json has init_lora_weights), so that "
                "it cannot stand beside other adapters: use lora=peft",
                code="unsupported",
            )
        if not math.isfinite(report.delta_norm):
            raise ConfigError(f"{lora.label} holds nan or infinity", code="damaged")
        found[lora.key] = pairs
        reports.append(report)
    rows = AdaptersOfRows(resolved.spec.lora.names)
    for path in dict.fromkeys(path for pairs in found.values() for path in pairs):
        layer = base.get_submodule(path)
        own = SideBySide([pairs.get(path) for pairs in found.values()], rows)
        layer.add_module(CHILD, own)
        own.hook = layer.register_forward_hook(partial(own.add, path))
    setattr(base, ATTRIBUTE, rows)
    return _together(resolved.spec.lora.names, reports)


def of_model(model: Any) -> AdaptersOfRows | None:
    """Return the adapters among which the rows of a model choose; None without such."""
    found: AdaptersOfRows | None = getattr(model, ATTRIBUTE, None)
    return found


def remove(model: Any) -> bool:
    """Remove all adapters; the base is as before."""
    vars(model).pop(ATTRIBUTE, None)
    return beside.remove(model)


def _together(names: Sequence[str], reports: Sequence[AdapterReport]) -> AdapterReport:
    """Describe all adapters as one."""
    words = [
        f"{name}: {report.modules} modules of rank {report.rank}"
        for name, report in zip(names, reports, strict=True)
    ]
    return AdapterReport(
        max(report.modules for report in reports),
        max(report.rank for report in reports),
        sum(report.parameters for report in reports),
        math.hypot(*(report.delta_norm for report in reports)),
        tuple(one for report in reports for one in report.notes),
        tuple(words),
    )
