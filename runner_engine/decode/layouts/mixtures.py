"""The layout of a mixture of experts: its router, its experts, and an MLP beside them that all
tokens go through."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_base import is_memory_error, one_line
from runner_engine.decode.layouts.mlps import MlpLayout, mlp_of
from runner_engine.decode.layouts.parts import NotFusable, child_of, names_of_parts
from runner_engine.decode.layouts.routers import RouterLayout, router_of, weights_and_index

log = logging.getLogger(__name__)

ROUTERS, EXPERTS = ("gate", "router"), ("experts",)
SHARED, SHARED_SCALES = ("shared_expert", "shared_experts", "shared_mlp"), ("shared_expert_gate",)
NEAR = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest number of a trial of the whole


@dataclass(frozen=True)
class MixtureLayout:
    router: RouterLayout
    experts: nn.Module
    shared: MlpLayout | None
    # [hidden]: the sigmoid of its product with a token scales what `shared` gives
    shared_scale: torch.Tensor | None


class MixtureAndMlp(nn.Module):
    """A mixture and an MLP for all tokens that are two parts of a layer, as the one part that
    others have."""

    def __init__(self, mixture: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        for name, part in mixture.named_children():
            self.add_module(name, part)
        self.shared_mlp = mlp
        self._mixture = [mixture]  # it is no part beside its own

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the sum of both."""
        result = self._mixture[0](hidden)
        added: torch.Tensor = (result[0] if isinstance(result, tuple) else result) + self.shared_mlp(hidden)
        return added


class MixtureReader:
    """Reads the mixtures of a model's layers; the first one of each class is tried as a whole."""

    def __init__(self) -> None:
        self._tried: set[tuple[type, bool]] = set()

    def read(self, block: Any, rows: torch.Tensor) -> MixtureLayout | None:
        """Return the layout of a layer's feed-forward; None where it is no mixture that C knows.
        rows [1, T, hidden]"""
        try:
            return self._read(block, rows)
        except Exception as error:  # of the family's own code, which is called part by part
            if is_memory_error(error):
                raise
            log.debug(
                "a mixture is computed by its own module: %s: %s",
                type(error).__name__,
                one_line(error, limit=120),
            )
            return None

    def _read(self, block: Any, rows: torch.Tensor) -> MixtureLayout:
        of_router, router = child_of(block, ROUTERS)
        of_experts, experts = child_of(block, EXPERTS)
        others = names_of_parts(block) - {of_router, of_experts}
        shared_names, scale_names = others & set(SHARED), others & set(SHARED_SCALES)
        if (
            others - shared_names - scale_names
            or len(shared_names) > 1
            or len(scale_names) > len(shared_names)
        ):
            raise NotFusable(f"its mixture has other parts: {', '.join(sorted(others))}")
        shared_module = getattr(block, next(iter(shared_names))) if shared_names else None
        shared = None if shared_module is None else mlp_of(shared_module, rows)
        if shared_module is not None and shared is None:
            raise NotFusable("the MLP beside its experts has other parts")
        scale = getattr(block, next(iter(scale_names))) if scale_names else None
        found = MixtureLayout(router_of(router, block), experts, shared, _row_of(scale, shared))
        kind = type(block), shared is None
        if kind not in self._tried:
            _try(block, router, shared_module, scale, found, rows)
            self._tried.add(kind)
        return found


def _row_of(scale: Any, shared: MlpLayout | None) -> torch.Tensor | None:
    """Return the one row of the linear layer that scales an MLP."""
    if scale is None or shared is None:
        return None
    weight = getattr(scale, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or len(weight) != 1:
        raise NotFusable("the MLP beside its experts is scaled otherwise")
    if scale.bias is not None or shared.out.bias is not None:
        raise NotFusable("the MLP beside its experts has biases, and is scaled")
    return weight.detach()[0]


def _try(
    block: Any,
    router: Any,
    shared: nn.Module | None,
    scale: nn.Module | None,
    found: MixtureLayout,
    rows: torch.Tensor,
) -> None:
    """Compare what a block gives with the sum of its parts; NotFusable where it does something else
    with them."""
    expected = block(rows)
    expected = (expected[0] if isinstance(expected, tuple) else expected).view_as(rows)[0]
    flat = rows[0]
    weights, index = weights_and_index(router(flat, **found.router.given), len(flat))
    result = found.experts(flat, index, weights)
    if shared is not None:
        beside = shared(flat)
        result = result + (beside if scale is None else torch.sigmoid(scale(flat)) * beside)
    off = (result.float() - expected.float()).abs().max()
    if not off <= NEAR[rows.dtype] * expected.float().abs().max():
        raise NotFusable("its mixture does something else with its parts")
