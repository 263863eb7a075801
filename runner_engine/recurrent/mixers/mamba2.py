"""Mamba-2 layers, including those in hybrid models.

Each layer has a convolution, a recurrence per head (SSD) and a gated norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.kernels.state_structures import MixerKind
from runner_engine.recurrent import compiled_layers
from runner_engine.recurrent.convolution import compute_conv_state_shape, convolve
from runner_engine.recurrent.mixer import Mixer, Segments, StateShape
from runner_engine.recurrent.mixer_parts import MixerParts
from runner_engine.recurrent.scans import scan_heads


class Mamba2(Mixer):
    """A Mamba-2 layer. Its state consists of the convolution's last inputs and a tensor [H, N, P]."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.heads, self.width, self.size = module.num_heads, module.head_dim, module.ssm_state_size
        self.inner, self.group_numbers = self.heads * self.width, module.n_groups * self.size
        weight = module.conv1d.weight[:, 0]
        self.states = (
            compute_conv_state_shape(weight),
            StateShape((self.heads, self.size, self.width), torch.float32),
        )

        self.compiled = compiled_layers.CompiledMamba2.create_if_supported(module)

    @cached_property
    def decay(self) -> Tensor:
        """Negative decay rate of each head: [H]. Each token's time step multiplies the rate."""
        decay: Tensor = -self.module.A_log.detach().float().exp()
        return decay

    @property
    def mixer_parts(self) -> MixerParts | None:
        """Parts of the layer that the fused forward pass needs.

        Falcon-H1's scales are per column.
        """
        module, between = self.module, self.compiled
        if between is None or (hasattr(module, "ssm_in_multiplier") and module.in_proj.bias is not None):
            return None
        floats = {}
        if hasattr(module, "ssm_in_multiplier"):
            floats["columns"] = (
                module.mup_vector.detach().float().flatten() * module.ssm_in_multiplier
            ).contiguous()
        structures = {"heads": between.layer.address}
        into = (module.in_proj,)
        return MixerParts(MixerKind.heads_mixer, into, module.out_proj, structures, floats, kept=(between,))

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        projected = self._project_input(hidden_states)
        if self.compiled is not None:
            gated = self.compiled(projected, states[0], states[1], segments)
        else:
            gated = self._scan_with_torch(projected, states, segments).to(hidden_states.dtype)
        result: Tensor = self.module.out_proj(gated)
        return result

    def _scan_with_torch(self, projected: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        module = self.module
        sizes = [self.inner, self.inner + 2 * self.group_numbers, self.heads]
        gate, mixed, steps = torch.split(projected, sizes, dim=-1)
        mixed = module.act(
            convolve(mixed, module.conv1d.weight[:, 0], module.conv1d.bias, states[0], segments)
        )
        inputs, keys, queries = mixed.split([self.inner, self.group_numbers, self.group_numbers], dim=-1)
        inputs = inputs.unflatten(1, (self.heads, self.width))
        keys, queries = (numbers.unflatten(1, (module.n_groups, self.size)) for numbers in (keys, queries))
        scanned = scan_heads(
            inputs, self._compute_time_steps(steps, segments), self.decay, keys, queries, states[1], segments
        )
        scanned = scanned + module.D.float()[:, None] * inputs.float()
        return self._gate_output(scanned.flatten(1), gate)

    def _project_input(self, hidden_states: Tensor) -> Tensor:
        module = self.module
        if not hasattr(module, "ssm_in_multiplier"):
            projected: Tensor = module.in_proj(hidden_states)
            return projected
        # Falcon-H1
        multiplied: Tensor = module.in_proj(hidden_states * module.ssm_in_multiplier) * module.mup_vector[0]
        return multiplied

    def _compute_time_steps(self, step_logits: Tensor, segments: Segments) -> Tensor:
        """Compute the time step of each token. Prefill clamps time steps, but decoding does not."""
        module = self.module
        step_logits = functional.softplus(step_logits + module.dt_bias)
        least, most = module.time_step_limit
        if segments.is_decoded or (least <= 0 and most == float("inf")):
            return step_logits
        return step_logits.clamp(least, most)

    def _gate_output(self, scanned: Tensor, gate: Tensor) -> Tensor:
        module = self.module
        if getattr(module, "mamba_rms_norm", True):
            normed: Tensor = module.norm(scanned, gate)
            return normed
        return scanned * functional.silu(gate)


def create_mixer(module: Any) -> Mixer:
    return Mamba2(module)
