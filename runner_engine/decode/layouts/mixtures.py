"""Describes a mixture of experts for the C kernels: router, experts and shared expert."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_base import is_out_of_memory_error, to_one_line
from runner_engine.decode.layouts.mlps import MlpLayout, infer_mlp_layout
from runner_engine.decode.layouts.parts import NotFusable, computing_child_names, find_first_child
from runner_engine.decode.layouts.routers import (
    RouterLayout,
    infer_router_layout,
    parse_expert_weights_and_indices,
)
from runner_engine.experts import UnsortedRouter, is_expert_block, takes_rows_sorted_by_expert

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
    scales_inputs: bool = False  # the router's weights scale what the experts read

    def sum_routed_expert_outputs(
        self, rows: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum over each row's experts, by their module."""
        if not self.scales_inputs:
            summed: torch.Tensor = self.experts(rows, index, weights)
            return summed
        scores = weights.new_zeros(len(rows), len(self.router.weight)).scatter(1, index, weights)
        sorted_rows = (rows * scores.T[..., None]).flatten(0, 1)
        outputs: torch.Tensor = self.experts(sorted_rows)
        return outputs.view(-1, *rows.shape).sum(0)


class MixtureAndMlp(nn.Module):
    """Combines the separate modules of a layer's expert mixture and shared MLP into one module.

    Other model families have this combined module.
    """

    def __init__(self, mixture: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        for name, part in mixture.named_children():
            self.add_module(name, part)
        self.shared_mlp = mlp
        self._mixture = [mixture]  # it is no part beside its own

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result = self._mixture[0](hidden)
        added: torch.Tensor = (result[0] if isinstance(result, tuple) else result) + self.shared_mlp(hidden)
        return added


def infer_expert_block_layout(block: Any) -> MixtureLayout:
    """Describe a block whose router sorts tokens by expert. `matmul/grouped/` compares its experts with C."""
    router = infer_router_layout(UnsortedRouter(block), block)
    if not router.formula.normalizes or router.formula.scale != 1:
        # C adds the block's bias to the output of each expert
        raise NotFusable("the weights of the chosen experts do not sum to 1")
    return MixtureLayout(router, block, None, None)


class MixtureReader:
    """Describes the mixtures of experts in a model's layers.

    A test run checks the first mixture of each class.
    """

    def __init__(self) -> None:
        self._tried: set[tuple[type, bool]] = set()

    def describe(self, block: Any, hidden_states: torch.Tensor) -> MixtureLayout | None:
        """Describe a layer's mixture of experts, or return None if the C kernels do not support it.

        hidden_states: [1, T, hidden] inputs of the trial.
        """
        try:
            return self._infer_mixture_layout(block, hidden_states)
        except Exception as error:  # of the family's own code, which is called part by part
            if is_out_of_memory_error(error):
                raise
            log.debug(
                "the C kernels do not support a mixture of experts, so its PyTorch module runs: %s: %s",
                type(error).__name__,
                to_one_line(error, limit=120),
            )
            return None

    def _infer_mixture_layout(self, block: Any, hidden_states: torch.Tensor) -> MixtureLayout:
        if is_expert_block(block):
            return infer_expert_block_layout(block)
        of_router, router = find_first_child(block, ROUTERS)
        of_experts, experts = find_first_child(block, EXPERTS)
        others = computing_child_names(block) - {of_router, of_experts}
        shared_names, scale_names = others & set(SHARED), others & set(SHARED_SCALES)
        if (
            others - shared_names - scale_names
            or len(shared_names) > 1
            or len(scale_names) > len(shared_names)
        ):
            raise NotFusable(f"the mixture has unsupported submodules: {', '.join(sorted(others))}")
        shared_module = getattr(block, next(iter(shared_names))) if shared_names else None
        shared = None if shared_module is None else infer_mlp_layout(shared_module, hidden_states)
        if shared_module is not None and shared is None:
            raise NotFusable("the shared expert has unsupported submodules")
        scale = getattr(block, next(iter(scale_names))) if scale_names else None
        found = MixtureLayout(
            infer_router_layout(router, block),
            experts,
            shared,
            _get_shared_expert_scale(scale, shared),
            takes_rows_sorted_by_expert(experts),
        )
        kind = type(block), shared is None
        if kind not in self._tried:
            _check_expert_sum_matches_output(block, router, shared_module, scale, found, hidden_states)
            self._tried.add(kind)
        return found


def _get_shared_expert_scale(scale: Any, shared: MlpLayout | None) -> torch.Tensor | None:
    """Return the weights of the linear layer whose output scales a shared expert.

    The layer has one output.
    """
    if scale is None or shared is None:
        return None
    weight = getattr(scale, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or len(weight) != 1:
        raise NotFusable("the shared expert has an unsupported scale")
    if scale.bias is not None or shared.out.bias is not None:
        raise NotFusable("the shared expert has both biases and a scale")
    return weight.detach()[0]


def _check_expert_sum_matches_output(
    block: Any,
    router: Any,
    shared: nn.Module | None,
    scale: nn.Module | None,
    layout: MixtureLayout,
    hidden_states: torch.Tensor,
) -> None:
    """Compare a mixture's output with the sum over its experts. Raises NotFusable if the two differ."""
    expected = block(hidden_states)
    expected = (expected[0] if isinstance(expected, tuple) else expected).view_as(hidden_states)[0]
    flat = hidden_states[0]
    weights, index = parse_expert_weights_and_indices(router(flat, **layout.router.given), len(flat))
    result = layout.sum_routed_expert_outputs(flat, index, weights)
    if shared is not None:
        beside = shared(flat)
        result = result + (beside if scale is None else torch.sigmoid(scale(flat)) * beside)
    off = (result.float() - expected.float()).abs().max()
    if not off <= NEAR[hidden_states.dtype] * expected.float().abs().max():
        raise NotFusable("the mixture uses an unsupported formula")
