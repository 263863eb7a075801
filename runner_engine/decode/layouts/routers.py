"""Identifies how a router selects and weights experts, by test runs.

The trial uses random weights with a wide spread instead of the checkpoint's, so that a
correction bias, a group limit or an epsilon has a visible effect.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.expert_structures import RouterScores

TRIED = 64  # rows
LOW = -12.0  # router's sums whose sigmoids are as small as what families add to their sum
NEAR = 1e-5  # of the largest weight
EPSILONS = (1e-20, 1e-12, 1e-9, 1e-6)  # that are added to the sum of the chosen experts' scores
GROUPS, CHOSEN_GROUPS = ("num_group", "n_group", "n_groups"), ("topk_group", "topk_groups")
BEST_OF_GROUP = (2, 1)


@dataclass(frozen=True)
class RouterFormula:
    """How a router turns logits into expert weights (see kernels/mixture_structs.h)."""

    chosen: int
    scores: RouterScores
    has_bias: bool  # one number for each expert is added to its sum
    has_correction: bool  # or to its score, for the choice alone
    groups: int
    chosen_groups: int
    best_of_group: int  # so many experts make the score of a group
    normalizes: bool
    epsilon: float
    scale: float
    rounds_logits: bool = False  # to the model's format
    rounds_weights: bool = False

    def __call__(self, logits: torch.Tensor, expert_bias: torch.Tensor) -> torch.Tensor:
        """Return the weights of all experts [tokens, experts]. Experts outside the top k have weight 0."""
        if self.has_bias:
            logits = logits + expert_bias
        scores = logits.softmax(-1) if self.scores is RouterScores.softmax_scores else logits.sigmoid()
        choice = scores + expert_bias if self.has_correction else scores
        if self.chosen_groups < self.groups:
            of_group = choice.view(len(choice), self.groups, -1)
            best = of_group.topk(self.best_of_group).values.sum(-1).topk(self.chosen_groups).indices
            is_left_out = torch.ones(of_group.shape[:2], dtype=torch.bool).scatter(1, best, False)
            choice = of_group.masked_fill(is_left_out[..., None], -torch.inf).flatten(1)
        index = choice.topk(self.chosen).indices
        weights = scores.gather(1, index)
        if self.normalizes:
            weights = weights / (weights.sum(-1, keepdim=True) + self.epsilon)
        return torch.zeros_like(scores).scatter(1, index, weights * self.scale)


@dataclass(frozen=True)
class RouterLayout:
    """A router: its weight matrix [experts, hidden], an optional bias of logits or scores, and its
    formula.
    """

    weight: torch.Tensor
    added: torch.Tensor | None  # [experts]
    given: Mapping[str, torch.Tensor]  # what its block hands to it besides rows
    formula: RouterFormula


def infer_router_layout(router: nn.Module, block: nn.Module) -> RouterLayout:
    """Describe the router of a mixture block.

    Raises NotFusable if the C kernels do not support its formula.
    """
    weight = router._parameters.get("weight")
    if weight is None or weight.dim() != 2 or weight.device.type != "cpu":
        raise NotFusable("its router has no matrix")
    experts, hidden = weight.shape
    given = _find_tensors_passed_to_router(router, block)
    own = {
        name: some for name, some in (*router.named_parameters(), *router.named_buffers()) if name != "weight"
    }
    added = own | given
    if len(added) > 1 or any(some.numel() != experts for some in added.values()):
        raise NotFusable(f"the router has unsupported parameters: {', '.join(sorted(added))}")
    trial = copy.deepcopy(router).float()
    vars(trial).pop("forward", None)  # a replaced one computes with the router's own weights
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(TRIED, hidden, generator=random, dtype=torch.float32)
    # what is added, in the trial
    of_all = torch.randn(experts, generator=random, dtype=torch.float32) / 2
    expected, logits = [], []
    for around, spread in ((0.0, 2.0), (LOW, 0.5)):
        numbers = (
            torch.randn(experts, hidden, generator=random, dtype=torch.float32) * spread * hidden**-0.5
            + around / hidden
        )
        some = rows if not around else 1 + rows / hidden
        with torch.no_grad():
            trial.get_parameter("weight").copy_(numbers)
            for name in own:
                trial.state_dict(keep_vars=True)[name].copy_(of_all)
            made = trial(some, **dict.fromkeys(given, of_all))
        weights, index = parse_expert_weights_and_indices(made, len(rows))
        expected.append(
            torch.zeros(len(rows), experts, dtype=torch.float32).scatter(1, index, weights.float())
        )
        logits.append(some @ numbers.T)
    for formula in _iter_candidate_router_formulas(router, index.shape[1], experts, bool(added)):
        found = [formula(some, of_all) for some in logits]
        if all(
            float((one - other).abs().max()) <= NEAR * float(other.abs().max())
            for one, other in zip(found, expected, strict=True)
        ):
            formula = _detect_router_rounding(router, given, weight, formula)
            of_layer = next((some.detach().flatten() for some in added.values()), None)
            return RouterLayout(weight.detach(), of_layer, given, formula)
    raise NotFusable("the router uses an unsupported formula")


def _find_tensors_passed_to_router(router: nn.Module, block: nn.Module) -> dict[str, torch.Tensor]:
    """Return the attributes of a mixture block that it passes to its router, by argument name.

    Hidden states are not included.
    """
    names = list(inspect.signature(router.forward).parameters)[1:]
    found = {name: getattr(block, name, None) for name in names}
    return {name: some for name, some in found.items() if isinstance(some, torch.Tensor)}


def parse_expert_weights_and_indices(output: Any, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = [some for some in output if isinstance(some, torch.Tensor)] if isinstance(output, tuple) else []
    numbers = [
        some
        for some in tensors
        if not some.is_floating_point() and some.dim() == 2 and len(some) == num_tokens
    ]
    if not numbers and (scores := _find_chosen_expert_scores(tensors, num_tokens)) is not None:
        return scores
    if len(numbers) != 1:
        raise NotFusable("the router does not return the indices of the chosen experts")
    [index] = numbers
    weights = [some for some in tensors if some.is_floating_point() and some.shape == index.shape]
    if not weights:
        raise NotFusable("the router does not return the weights of the chosen experts")
    return weights[-1], index


def _find_chosen_expert_scores(
    tensors: list[torch.Tensor], num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return weights and indices from scores [tokens, experts] that are 0 for experts outside the top k."""
    for scores in tensors:
        if scores.is_floating_point() and scores.dim() == 2 and len(scores) == num_tokens:
            counts = (scores != 0).sum(-1)
            if 0 < int(counts.max()) < scores.shape[1] and bool((counts == counts[0]).all()):
                weights, index = scores.topk(int(counts[0]))
                return weights, index
    return None


def _iter_candidate_router_formulas(
    router: nn.Module, top_k: int, num_experts: int, has_expert_bias: bool
) -> Iterator[RouterFormula]:
    """Yield candidate formulas for a router, inferred from its numeric attributes."""
    of = {name: value for name, value in vars(router).items() if isinstance(value, int | float)}
    groups = next((int(of[name]) for name in GROUPS if of.get(name)), 1)
    chosen_groups = next((int(of[name]) for name in CHOSEN_GROUPS if of.get(name)), 1)
    scales = list(dict.fromkeys([*(value for value in of.values() if isinstance(value, float)), 1.0]))
    limits = [(1, 1, 1)]
    if (
        num_experts % groups == 0
        and chosen_groups < groups
        and top_k <= num_experts // groups * chosen_groups
    ):
        limits = [
            (groups, chosen_groups, best) for best in BEST_OF_GROUP if best <= num_experts // groups
        ] + limits
    for scores in RouterScores:
        for has_bias, has_correction in ((False, True), (True, False), (False, False)):
            if (has_bias or has_correction) and not has_expert_bias:
                continue
            for some_groups, best_groups, best in limits:
                made = RouterFormula(
                    top_k, scores, has_bias, has_correction, some_groups, best_groups, best, False, 0.0, 1.0
                )
                for scale in scales:
                    yield replace(made, scale=scale)
                    for epsilon in EPSILONS:
                        yield replace(made, scale=scale, normalizes=True, epsilon=epsilon)


def _detect_router_rounding(
    router: nn.Module,
    router_arguments: Mapping[str, torch.Tensor],
    weight: torch.Tensor,
    formula: RouterFormula,
) -> RouterFormula:
    """Detect which intermediate results the router rounds to the model's dtype.

    Returns the formula with these flags.
    """
    dtype, random = weight.dtype, torch.Generator().manual_seed(1)
    rows = torch.randn(TRIED, weight.shape[1], generator=random, dtype=torch.float32).to(dtype)
    with torch.no_grad():
        made = router(rows, **router_arguments)
    weights, _ = parse_expert_weights_and_indices(made, TRIED)
    logits = [
        some
        for some in made
        if isinstance(some, torch.Tensor) and some.is_floating_point() and some is not weights
    ]
    shaped = [some for some in logits if some.shape == (TRIED, len(weight))]
    rounds_logits = all(torch.equal(some.float(), some.to(dtype).float()) for some in shaped)
    return replace(formula, rounds_logits=rounds_logits, rounds_weights=weights.dtype is dtype)
