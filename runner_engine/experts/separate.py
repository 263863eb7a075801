"""Stands in place of a family's fused experts: each expert is a module with linear layers of its
own.

So a library or our loader quantizes them as it does any linear layer, and their paths are those of
most checkpoints: `model.layers.0.mlp.experts.3.gate_proj`. What the family does between the
matrices (its gate with limits and factors, a norm after each expert) is the family's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN, GATE, UP
from runner_engine.experts.form import Form, apart, form_of, together


class Expert(nn.Module):
    """The matrices of one expert: `gate_proj` unless its family has none, `up_proj` and
    `down_proj`."""

    def __init__(self, layers: Mapping[str, nn.Module], between: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.has_gate = GATE in layers
        self._between = between

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the expert's result for each row."""
        up = self.get_submodule(UP)(rows)
        inner = self._between(self.get_submodule(GATE)(rows), up) if self.has_gate else self._between(up)
        return cast(torch.Tensor, self.get_submodule(DOWN)(inner))


class SeparateExperts(nn.Module):
    """The experts of a layer, as children named by their numbers; takes what the family's own
    module takes.

    Its layers are views of the family's parameters, or without memory where these are. Any of them
    may be exchanged.
    """

    def __init__(self, family: nn.Module, form: Form) -> None:
        super().__init__()
        self.form, self.family_class = form, type(family).__name__
        self.num_experts = len(_parameter(family, DOWN))
        if form.has_post_norm:
            self.post_expert_norm = family.get_submodule("post_expert_norm")
        if isinstance(family._modules.get("act_fn"), nn.Module):
            self.act_fn = family.get_submodule("act_fn")  # some have parameters
        for number in range(self.num_experts):
            layers = {matrix: _view_of(family, form, matrix, number) for matrix in form.matrices}
            self.add_module(str(number), Expert(layers, self.between))
        # in a list, so that it is no child: it has no weights
        self._family = [_without_weights(family)]

    def between(self, *inner: torch.Tensor) -> torch.Tensor:
        """Return what the last matrix takes, of what gate_proj and up_proj give, or of the latter
        alone."""
        family: Any = self._family[0]
        if len(inner) == 1:
            return cast(torch.Tensor, family.act_fn(inner[0]))
        if self.form.takes_sorted_rows:  # a family of before there was a name for its gate
            return cast(torch.Tensor, inner[1] * family.act_fn(inner[0]))
        return cast(torch.Tensor, family._apply_gate(together(self.form, *inner)))

    def expert(self, number: int) -> Expert:
        return cast(Expert, self._modules[str(number)])

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return, for each row, the sum of the results of its experts by their weights."""
        chosen, weights = top_k_index.shape[-1], top_k_weights.reshape(-1, 1)
        numbers = top_k_index.reshape(-1)
        order = numbers.argsort(stable=True)
        counts = numbers.bincount(
            minlength=self.num_experts
        ).tolist()  # more where a row has fewer experts than others
        results: torch.Tensor | None = None
        for number, places in enumerate(torch.split(order, counts)):
            if number >= self.num_experts or not len(places):
                continue
            result = self.expert(number)(hidden_states[places // chosen])
            if self.form.has_post_norm:
                result = self.post_expert_norm(result)
            result = result * weights[places]
            if results is None:
                results = result.new_zeros(len(numbers), result.shape[-1])
            results[places] = result
        if results is None:
            return torch.zeros_like(hidden_states)
        # in the order of a row's experts, and not of all experts: the same whatever other rows
        # there are
        return results.view(-1, chosen, results.shape[-1]).sum(dim=1).to(hidden_states.dtype)


class SortedExperts(SeparateExperts):
    """Experts that all get all rows, each multiplied by the router's score: most are zeros, and so
    is their result."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the result of each row; there are as many for each expert, in the experts'
        order."""
        of_experts = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])
        results = torch.zeros_like(of_experts)
        for number, rows in enumerate(of_experts):
            (places,) = rows.any(dim=-1).nonzero(as_tuple=True)
            if len(places):
                results[number, places] = self.expert(number)(rows[places])
        return results.view(-1, hidden_states.shape[-1])


def separated(family: nn.Module) -> SeparateExperts | None:
    """Return what stands in place of a family's module of fused experts; None if it is no such
    module."""
    form = form_of(family)
    if form is None:
        return None
    kind = SortedExperts if form.takes_sorted_rows else SeparateExperts
    return kind(family, form).train(family.training)


def separate_all(model: nn.Module) -> dict[str, SeparateExperts]:
    """Put separate experts in place of all fused ones of a model; return them by their paths."""
    found = {path: made for path, module in model.named_modules() if (made := separated(module)) is not None}
    for path, made in found.items():
        model.set_submodule(path, made)
    return found


def _view_of(family: nn.Module, form: Form, matrix: str, number: int) -> nn.Linear:
    """Return a linear layer whose weight and bias are views of the family's parameters."""
    name = form.fused_name(matrix)
    weight = apart(form, matrix, _parameter(family, name)[number])
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=form.has_bias)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if form.has_bias:
        bias = apart(form, matrix, _parameter(family, f"{name}_bias")[number])
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _parameter(family: nn.Module, name: str) -> torch.Tensor:
    return cast(nn.Parameter, family._parameters[name]).detach()


def _without_weights(family: nn.Module) -> nn.Module:
    """Return a module with the family's gate and numbers, and without its parameters, which would
    stay in memory."""
    made = object.__new__(type(family))
    made.__dict__.update(family.__dict__)
    made._parameters = {}
    return made
