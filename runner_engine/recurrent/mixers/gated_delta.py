"""Gated delta rule layers (Qwen3-Next, Qwen3.5, OLMo Hybrid, Kimi Linear, Bailing).

They consist of a convolution and the rule in delta_rule.py.

The families differ in the layout of their projections, and in the decay: per head or per
key dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import ACT2FN

from runner_engine.kernels.state_structures import MixerKind
from runner_engine.recurrent import delta_rule
from runner_engine.recurrent.compiled_layers import CompiledConvolution, CompiledDeltaRule, is_silu
from runner_engine.recurrent.convolution import compute_conv_state_shape, convolve
from runner_engine.recurrent.delta_rule import DeltaRuleInputs
from runner_engine.recurrent.mixer import Mixer, Segments, StateShape
from runner_engine.recurrent.mixer_parts import MixerParts

EPSILON = 1e-6  # of a key's length


class Projected(NamedTuple):
    """Outputs of the input projections in a gated delta layer: [tokens, …]."""

    mixed: Tensor  # queries, keys and values, side by side
    gate: Tensor  # [tokens, heads, V]
    beta: Tensor  # [tokens, heads]
    decay: Tensor  # float32 [tokens, heads], or [tokens, heads, K]


def _compute_head_decay(module: Any, decay_inputs: Tensor) -> Tensor:
    decay: Tensor = -module.A_log.float().exp() * functional.softplus(decay_inputs.float() + module.dt_bias)
    return decay


def _project_qwen3_5_hidden_states(module: Any, hidden_states: Tensor) -> Projected:
    gate = module.in_proj_z(hidden_states).unflatten(-1, (-1, module.head_v_dim))
    decay = _compute_head_decay(module, module.in_proj_a(hidden_states))
    return Projected(
        module.in_proj_qkv(hidden_states), gate, module.in_proj_b(hidden_states).sigmoid(), decay
    )


def _project_qwen3_next_hidden_states(module: Any, hidden_states: Tensor) -> Projected:
    cut = module.fix_query_key_value_ordering(
        module.in_proj_qkvz(hidden_states)[None], module.in_proj_ba(hidden_states)[None]
    )
    query, key, value, gate, beta, decay = (part[0] for part in cut)
    mixed = torch.cat((query.flatten(1), key.flatten(1), value.flatten(1)), dim=-1)
    return Projected(mixed, gate, beta.sigmoid(), _compute_head_decay(module, decay))


def _project_olmo_hidden_states(module: Any, hidden_states: Tensor) -> Projected:
    mixed = torch.cat(
        (module.q_proj(hidden_states), module.k_proj(hidden_states), module.v_proj(hidden_states)), dim=-1
    )
    beta = module.b_proj(hidden_states).sigmoid() * (2.0 if module.allow_neg_eigval else 1.0)
    gate = module.g_proj(hidden_states).unflatten(-1, (-1, module.head_v_dim))
    return Projected(mixed, gate, beta, _compute_head_decay(module, module.a_proj(hidden_states)))


def _project_kimi_hidden_states(module: Any, hidden_states: Tensor) -> Projected:
    mixed = torch.cat(
        (module.q_proj(hidden_states), module.k_proj(hidden_states), module.v_proj(hidden_states)), dim=-1
    )
    gate = (
        module.g_proj(hidden_states)
        if hasattr(module, "g_proj")
        else module.g_b_proj(module.g_a_proj(hidden_states))
    )
    decay = module.forget_gate(hidden_states[None])[0].float()
    return Projected(
        mixed, gate.unflatten(-1, (-1, module.head_dim)), module.b_proj(hidden_states).sigmoid(), decay
    )


PROJECTIONS: dict[str, Callable[[Any, Tensor], Projected]] = {
    "Qwen3_5GatedDeltaNet": _project_qwen3_5_hidden_states,
    "Qwen3_5MoeGatedDeltaNet": _project_qwen3_5_hidden_states,
    "Qwen3NextGatedDeltaNet": _project_qwen3_next_hidden_states,
    "OlmoHybridGatedDeltaNet": _project_olmo_hidden_states,
    "KimiLinearDeltaAttention": _project_kimi_hidden_states,
    "BailingHybridDeltaAttention": _project_kimi_hidden_states,
}


# What gives side by side queries, keys and values, the gate, the rate of each head, and its decay;
# of BY_KEY_HEADS these are side by side for each head of keys, the last two behind the others
INTO: dict[str, tuple[str, ...]] = {
    "Qwen3_5GatedDeltaNet": ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    "Qwen3_5MoeGatedDeltaNet": ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    "OlmoHybridGatedDeltaNet": ("q_proj", "k_proj", "v_proj", "g_proj", "b_proj", "a_proj"),
    "Qwen3NextGatedDeltaNet": ("in_proj_qkvz", "in_proj_ba"),
}
BY_KEY_HEADS = ("Qwen3NextGatedDeltaNet",)


class GatedDeltaNet(Mixer):
    """A recurrent layer with a causal convolution and the gated delta rule."""

    def __init__(self, module: Any) -> None:
        self.module, self.project = module, PROJECTIONS[type(module).__name__]
        is_kimi = self.project is _project_kimi_hidden_states
        self.key_heads, self.heads = (
            (module.num_heads,) * 2 if is_kimi else (module.num_k_heads, module.num_v_heads)
        )
        self.key_dim, self.value_dim = (
            (module.head_dim,) * 2 if is_kimi else (module.head_k_dim, module.head_v_dim)
        )
        self.norm = module.norm if hasattr(module, "norm") else module.o_norm
        self.out = module.out_proj if hasattr(module, "out_proj") else module.o_proj
        self.activation = ACT2FN[module.activation]
        weight = module.conv1d.weight
        has_silu = is_silu(self.activation)
        self.convolution = (
            CompiledConvolution.create_if_supported(weight[:, 0], module.conv1d.bias, has_silu)
            if has_silu
            else None
        )
        heads, dims = (self.key_heads, self.heads), (self.key_dim, self.value_dim)
        decays = self.key_dim if is_kimi else 1
        self.rule = CompiledDeltaRule.create_if_supported(weight, heads, dims, decays, self.norm)
        self.states = (
            compute_conv_state_shape(weight[:, 0]),
            StateShape((self.heads, self.key_dim, self.value_dim), torch.float32),
        )

    @property
    def mixer_parts(self) -> MixerParts | None:
        """Parts of the layer that the fused forward pass needs for the convolution and the delta rule.

        None if the projections have other output layouts.
        """
        module, names = self.module, INTO.get(type(self.module).__name__)
        if names is None or self.convolution is None or self.rule is None:
            return None
        convolution, rule = self.convolution.layer, self.rule.layer
        return MixerParts(
            MixerKind.delta_mixer,
            tuple(getattr(module, name) for name in names),
            self.out,
            {"conv": convolution.address, "delta": rule.address},
            {"step_bias": module.dt_bias.detach().float(), "decay": -module.A_log.detach().float().exp()},
            2.0 if getattr(module, "allow_neg_eigval", False) else 1.0,
            type(module).__name__ in BY_KEY_HEADS,
            kept=(convolution, rule),
        )

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        module, projected = self.module, self.project(self.module, hidden_states)
        if self.convolution is not None:
            mixed = self.convolution(projected.mixed, states[0], segments)
        else:
            weight = module.conv1d.weight[:, 0]
            mixed = self.activation(
                convolve(projected.mixed, weight, module.conv1d.bias, states[0], segments)
            )
        if self.rule is not None:
            beta = projected.beta.float()
            gated = self.rule(mixed, projected.decay, beta, projected.gate, states[1], segments)
        else:
            result = delta_rule.apply_delta_rule(
                self._build_delta_rule_inputs(mixed, projected), states[1], segments
            ).to(hidden_states.dtype)
            gated = self.norm(result.flatten(0, 1), projected.gate.flatten(0, 1))
        output: Tensor = self.out(gated.view(len(hidden_states), -1))
        return output

    def _build_delta_rule_inputs(self, convolved: Tensor, projected: Projected) -> DeltaRuleInputs:
        """Split the inputs of the delta rule into queries, keys and values, and normalize them in float32."""
        wide = self.key_heads * self.key_dim
        query, key, value = torch.split(convolved.float(), [wide, wide, self.heads * self.value_dim], dim=-1)
        query, key = (
            _normalize_vectors(one.reshape(-1, self.key_heads, self.key_dim)) for one in (query, key)
        )
        if self.key_heads != self.heads:
            query, key = (one.repeat_interleave(self.heads // self.key_heads, dim=1) for one in (query, key))
        value = value.reshape(-1, self.heads, self.value_dim)
        return DeltaRuleInputs(
            query * self.key_dim**-0.5, key, value, projected.decay, projected.beta.float()
        )


def _normalize_vectors(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt((vectors * vectors).sum(-1, keepdim=True) + EPSILON)


def create_mixer(module: Any) -> Mixer:
    return GatedDeltaNet(module)
