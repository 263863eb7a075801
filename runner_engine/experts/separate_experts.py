"""Replaces fused experts by one module per expert, with separate linear layers.

So a library or our loader quantizes them like any linear layer, and their paths are those of most
checkpoints: `model.layers.0.mlp.experts.3.gate_proj`. Between the matrices (a gate with limits and
factors, a norm after each expert) the model's own code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN, GATE, UP
from runner_engine.experts.expert_format import (
    ExpertFormat,
    detect_expert_format,
    join_gate_and_up,
    select_expert_matrix,
)


class Expert(nn.Module):
    """The linear layers of one expert: `up_proj`, `down_proj`, and `gate_proj` if the model family
    has a gate.
    """

    def __init__(self, layers: Mapping[str, nn.Module], apply_gate: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.has_gate = GATE in layers
        self._between = apply_gate

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        up = self.get_submodule(UP)(activations)
        inner = (
            self._between(self.get_submodule(GATE)(activations), up) if self.has_gate else self._between(up)
        )
        return cast(torch.Tensor, self.get_submodule(DOWN)(inner))


class SeparateExperts(nn.Module):
    """The experts of a layer as numbered child modules.

    The forward takes the original module's inputs. The layers are views of the original
    parameters, or
    without memory if these are. Any layer may be replaced.
    """

    def __init__(self, original_experts: nn.Module, expert_format: ExpertFormat) -> None:
        super().__init__()
        self.form, self.family_class = expert_format, type(original_experts).__name__
        self.num_experts = len(_get_detached_parameter(original_experts, DOWN))
        if expert_format.has_post_norm:
            self.post_expert_norm = original_experts.get_submodule("post_expert_norm")
        if isinstance(original_experts._modules.get("act_fn"), nn.Module):
            self.act_fn = original_experts.get_submodule("act_fn")  # some have parameters
        for number in range(self.num_experts):
            layers = {
                matrix: _build_linear_view(original_experts, expert_format, matrix, number)
                for matrix in expert_format.matrices
            }
            self.add_module(str(number), Expert(layers, self.apply_gate))
        # in a list, so that it is no child: it has no weights
        self._family = [_copy_without_weights(original_experts)]

    def apply_gate(self, *activations: torch.Tensor) -> torch.Tensor:
        """Compute the input of down_proj from the outputs of gate_proj and up_proj.

        Without a gate, only the output of up_proj is given.
        """
        family: Any = self._family[0]
        if len(activations) == 1:
            return cast(torch.Tensor, family.act_fn(activations[0]))
        if self.form.takes_rows_sorted_by_expert:  # a family of before there was a name for its gate
            return cast(torch.Tensor, activations[1] * family.act_fn(activations[0]))
        return cast(torch.Tensor, family._apply_gate(join_gate_and_up(self.form, *activations)))

    def get_expert(self, index: int) -> Expert:
        return cast(Expert, self._modules[str(index)])

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Compute the weighted sum of the chosen experts' outputs for each token."""
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
            result = self.get_expert(number)(hidden_states[places // chosen])
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
    """Separate experts of a model that passes each token, scaled by the router's score, to every expert.

    Most inputs are zero.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Compute the outputs of all experts for their tokens, sorted by expert."""
        of_experts = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])
        results = torch.zeros_like(of_experts)
        for number, rows in enumerate(of_experts):
            (places,) = rows.any(dim=-1).nonzero(as_tuple=True)
            if len(places):
                results[number, places] = self.get_expert(number)(rows[places])
        return results.view(-1, hidden_states.shape[-1])


def takes_rows_sorted_by_expert(experts: nn.Module) -> bool:
    """Whether experts, fused or separate, get the scaled rows of all tokens in the order of the experts."""
    form = experts.form if isinstance(experts, SeparateExperts) else detect_expert_format(experts)
    return form is not None and form.takes_rows_sorted_by_expert


def build_separate_experts(original_experts: nn.Module) -> SeparateExperts | None:
    """Build separate experts from a module of fused experts. None for any other module."""
    form = detect_expert_format(original_experts)
    if form is None:
        return None
    kind = SortedExperts if form.takes_rows_sorted_by_expert else SeparateExperts
    return kind(original_experts, form).train(original_experts.training)


def separate_all_experts(model: nn.Module) -> dict[str, SeparateExperts]:
    """Replace all fused experts of a model by separate experts. Returns the new modules by path."""
    found = {
        path: made
        for path, module in model.named_modules()
        if (made := build_separate_experts(module)) is not None
    }
    for path, made in found.items():
        model.set_submodule(path, made)
    return found


def _build_linear_view(
    original_experts: nn.Module, expert_format: ExpertFormat, matrix_name: str, expert: int
) -> nn.Linear:
    """Build a linear layer whose weight and bias are views of the fused parameters."""
    name = expert_format.fused_name(matrix_name)
    weight = select_expert_matrix(
        expert_format, matrix_name, _get_detached_parameter(original_experts, name)[expert]
    )
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=expert_format.has_bias)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if expert_format.has_bias:
        bias = select_expert_matrix(
            expert_format, matrix_name, _get_detached_parameter(original_experts, f"{name}_bias")[expert]
        )
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _get_detached_parameter(original_experts: nn.Module, name: str) -> torch.Tensor:
    return cast(nn.Parameter, original_experts._parameters[name]).detach()


def _copy_without_weights(original_experts: nn.Module) -> nn.Module:
    """Copy a module without its parameters, which would keep the weights in memory."""
    made = object.__new__(type(original_experts))
    made.__dict__.update(original_experts.__dict__)
    made._parameters = {}
    return made
