"""The layer of Mamba-2, and of the hybrids that have it: a convolution, a recurrence of heads
(SSD), a gated norm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.kernels.state_numbers import MixerKind
from runner_engine.recurrent import compiled
from runner_engine.recurrent.call_parts import CallParts
from runner_engine.recurrent.contract import Mixer, Segments, StateShape
from runner_engine.recurrent.convolution import convolve, state_of
from runner_engine.recurrent.scans import scan_heads


class Mamba2(Mixer):
    """A layer whose state are the convolution's last inputs and [H, N, P] numbers."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.heads, self.width, self.size = module.num_heads, module.head_dim, module.ssm_state_size
        self.inner, self.group_numbers = self.heads * self.width, module.n_groups * self.size
        weight = module.conv1d.weight[:, 0]
        self.states = (state_of(weight), StateShape((self.heads, self.size, self.width), torch.float32))

        self.compiled = compiled.Heads.of(module)

    @cached_property
    def decay(self) -> Tensor:
        """The negative number of each head that its time steps are multiplied by, [H]."""
        decay: Tensor = -self.module.A_log.detach().float().exp()
        return decay

    @property
    def call_parts(self) -> CallParts | None:
        """Convolution, recurrence, gate and norm between its two projections; what Falcon-H1
        scales, by columns."""
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
        return CallParts(MixerKind.heads_mixer, into, module.out_proj, structures, floats, kept=(between,))

    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Project, convolve, scan, gate and project back."""
        projected = self._projected(hidden)
        if self.compiled is not None:
            gated = self.compiled(projected, states[0], states[1], segments)
        else:
            gated = self._scanned(projected, states, segments).to(hidden.dtype)
        result: Tensor = self.module.out_proj(gated)
        return result

    def _scanned(self, projected: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Convolve, scan and gate by operations of torch."""
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
            inputs, self._steps(steps, segments), self.decay, keys, queries, states[1], segments
        )
        scanned = scanned + module.D.float()[:, None] * inputs.float()
        return self._gated(scanned.flatten(1), gate)

    def _projected(self, hidden: Tensor) -> Tensor:
        module = self.module
        if not hasattr(module, "ssm_in_multiplier"):
            projected: Tensor = module.in_proj(hidden)
            return projected
        # Falcon-H1
        multiplied: Tensor = module.in_proj(hidden * module.ssm_in_multiplier) * module.mup_vector[0]
        return multiplied

    def _steps(self, steps: Tensor, segments: Segments) -> Tensor:
        """Return the lengths of time steps; the family limits them for prompts alone, not where a
        token is decoded."""
        module = self.module
        steps = functional.softplus(steps + module.dt_bias)
        least, most = module.time_step_limit
        if segments.is_decoded or (least <= 0 and most == float("inf")):
            return steps
        return steps.clamp(least, most)

    def _gated(self, scanned: Tensor, gate: Tensor) -> Tensor:
        module = self.module
        if getattr(module, "mamba_rms_norm", True):
            normed: Tensor = module.norm(scanned, gate)
            return normed
        return scanned * functional.silu(gate)


def mixer_of(module: Any) -> Mixer:
    """Return the mixer of a layer."""
    return Mamba2(module)
