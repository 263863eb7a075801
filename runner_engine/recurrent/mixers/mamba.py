"""Mamba layers, including those in hybrid models: a convolution and a recurrence per channel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.kernels.state_structures import MixerKind
from runner_engine.recurrent import compiled_layers
from runner_engine.recurrent.compiled_layers import is_silu
from runner_engine.recurrent.convolution import compute_conv_state_shape, convolve
from runner_engine.recurrent.mixer import Mixer, Segments, StateShape
from runner_engine.recurrent.mixer_parts import ChannelProducts, MixerParts
from runner_engine.recurrent.scans import scan_channels


class Mamba(Mixer):
    """A Mamba layer. Its state consists of the convolution's last inputs and a tensor [N, C]."""

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv1d.weight[:, 0]
        self.channels, self.size = weight.shape[0], module.ssm_state_size
        self.states = (
            compute_conv_state_shape(weight),
            StateShape((self.size, self.channels), torch.float32),
        )

        decay, skip = self.decay, module.D.detach().flatten()
        self.convolution = (
            compiled_layers.CompiledConvolution.create_if_supported(weight, module.conv1d.bias, True)
            if is_silu(module.act)
            else None
        )
        self.recurrence = compiled_layers.CompiledMamba.create_if_supported(
            weight, decay, skip, getattr(module, "n_mamba_heads", 1)
        )

    @cached_property
    def decay(self) -> Tensor:
        """Negative decay rates [N, C]. Each token's time step multiplies these rates."""
        logarithm: Tensor = self.module.A_log.detach().float().reshape(self.channels, self.size)
        return -logarithm.exp().T.contiguous()

    @property
    def mixer_parts(self) -> MixerParts | None:
        module, convolution, recurrence = self.module, self.convolution, self.recurrence
        if convolution is None or recurrence is None:
            return None
        dt, keys, queries = (getattr(module, f"{name}_layernorm", None) for name in ("dt", "b", "c"))
        products = ChannelProducts(
            module.x_proj, module.dt_proj, (dt, keys, queries), module.time_step_rank, recurrence.structure
        )
        return MixerParts(
            MixerKind.channels_mixer,
            (module.in_proj,),
            module.out_proj,
            {"conv": convolution.layer.address},
            kept=(convolution, recurrence),
            products=products,
        )

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        module = self.module
        mixed, gate = self._project_input(hidden_states)
        if self.convolution is None or self.recurrence is None:
            gated = self._scan_with_torch(mixed, gate, states, segments).to(hidden_states.dtype)
        else:
            mixed = self.convolution(
                mixed if mixed.stride(1) == 1 else mixed.contiguous(), states[0], segments
            )
            gated = self.recurrence(mixed, *self._compute_scan_parameters(mixed), gate, states[1], segments)
        result: Tensor = module.out_proj(gated)
        return result

    def _scan_with_torch(
        self, projected: Tensor, gate: Tensor, states: Sequence[Tensor], segments: Segments
    ) -> Tensor:
        module = self.module
        projected = module.act(
            convolve(projected, module.conv1d.weight[:, 0], module.conv1d.bias, states[0], segments)
        )
        steps, keys, queries = self._compute_scan_parameters(projected)
        steps = functional.softplus(steps.float())
        scanned = scan_channels(projected, steps, self.decay, keys, queries, states[1], segments)
        gated: Tensor = (scanned + projected.float() * module.D.float().flatten()) * functional.silu(gate)
        return gated

    def _project_input(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the convolution and the gate."""
        mixed, gate = self.module.in_proj(hidden_states).chunk(2, dim=-1)
        return mixed, gate

    def _compute_scan_parameters(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return time steps before softplus [tokens, C], keys [tokens, 1, N] and queries [tokens, 1, N]."""
        module = self.module
        parts = module.x_proj(convolved).split([module.time_step_rank, self.size, self.size], dim=-1)
        if hasattr(module, "dt_layernorm"):  # Falcon Mamba and Jamba
            norms = (module.dt_layernorm, module.b_layernorm, module.c_layernorm)
            parts = [norm(part) for norm, part in zip(norms, parts, strict=True)]
        steps, keys, queries = parts
        return module.dt_proj(steps), keys[:, None], queries[:, None]


class HeadedMamba(Mamba):
    """Zamba's Mamba layer, in which each group of channels has separate projections."""

    @property
    def mixer_parts(self) -> None:
        """None: the fused pass has no matmuls of single groups of channels."""

    def _project_input(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        mixed, gate = self.module.in_proj(hidden_states).unflatten(-1, (-1, 2)).unbind(-1)
        return mixed, gate

    def _compute_scan_parameters(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        # [G, tokens, C / G]
        heads = convolved.view(-1, module.n_mamba_heads, module.mamba_head_dim).transpose(0, 1)
        parts = (heads @ module.x_proj_weight.transpose(1, 2)).split(
            [module.time_step_rank, self.size, self.size], dim=-1
        )
        steps = parts[0] @ module.dt_proj_weight.transpose(1, 2)
        of_channels = steps.transpose(0, 1).flatten(1) + module.dt_proj_bias.flatten()
        return of_channels, parts[1].transpose(0, 1), parts[2].transpose(0, 1)


def create_mixer(module: Any) -> Mixer:
    return HeadedMamba(module) if hasattr(module, "x_proj_weight") else Mamba(module)
