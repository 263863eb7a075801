"""Blocks whose experts have one matrix module per projection, and whose router sorts tokens by expert (JetMoE).

A block is an MLP with a gate, or the query and output projections of attention.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

MATRICES = ("input_linear", "output_linear")  # each with a weight [experts, outputs, inputs]


def is_expert_block(module: nn.Module) -> bool:
    """Whether a module has a router that sorts tokens, and two modules with a matrix for each expert."""
    router_layer: Any = getattr(module._modules.get("router"), "layer", None)
    weights = [getattr(module._modules.get(name), "weight", None) for name in MATRICES]
    has_matrices = all(isinstance(weight, torch.Tensor) and weight.dim() == 3 for weight in weights)
    is_plain = type(router_layer) is nn.Linear and type(router_layer.weight.data) is torch.Tensor
    return has_matrices and is_plain and router_layer.bias is None


class UnsortedRouter(nn.Module):
    """The router of an expert block that returns the experts and weights of each token, in the tokens' order."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        layer = block.router.layer
        with torch.device("meta"):
            plain_layer = nn.Linear(layer.in_features, layer.out_features, bias=False)
        # a copy without the functions that replace `forward`
        plain_layer.weight = self.weight = layer.weight
        self.router = object.__new__(type(block.router))
        vars(self.router).update(vars(block.router), _modules={"layer": plain_layer})

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits [tokens, experts], and the weights and indices [tokens, chosen] of the chosen experts."""
        order, _, sorted_weights, counts, logits = self.router(hidden_states)
        index, weights = torch.empty_like(order), torch.empty_like(sorted_weights)
        index[order] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        weights[order] = sorted_weights
        shape = len(hidden_states), -1
        return cast(torch.Tensor, logits), weights.view(shape), index.view(shape)
