"""The layers' convolutions and recurrences in C (kernels/recurrent.h), for states on a CPU: a call
for each layer.

A layer's numbers are prepared once, in float32. Sums have one order, whatever the pass: a row's
bits depend neither on other rows nor on how its prompt was divided.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure, addressof
from typing import Any

import torch
from torch import Tensor

from runner_engine.kernels import native
from runner_engine.kernels.state_numbers import (
    CHANNEL_TILE,
    GATE_BY_SIGMOID,
    GATE_BY_SILU,
    MAX_CONVOLVED,
    MAX_KEY_DIM,
    ROUND_TOKENS,
    STATE_LANES,
    STATE_TILE,
    ChannelsLayer,
    ConvLayer,
    DeltaLayer,
    HeadsLayer,
)
from runner_engine.recurrent.contract import Segments

Activation = Callable[[Tensor], Tensor]
LIMITLESS = 3e38  # more than any time step


def is_silu(activation: Activation) -> bool:
    """Whether an activation is the one that C computes."""
    return type(activation).__name__ in ("SiLU", "SiLUActivation") or activation is torch.nn.functional.silu


def kernels_of(like: Tensor, *multiples: int) -> native.Kernels | None:
    """Return the kernels if they read such tensors, and widths that are these."""
    is_here = like.device.type == "cpu" and like.dtype in native.FORMATS
    fits = all(width % STATE_LANES == 0 for width in multiples)
    return native.kernels() if is_here and fits else None


class _Layer:
    """A structure of C, and the tensors that it points to."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self._kept = structure, list[Tensor]()

    @property
    def address(self) -> int:
        """Where C reads it."""
        return addressof(self.structure)

    def point(self, of: Structure, **tensors: Tensor | None) -> None:
        """Let fields point to numbers, as float32."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self._kept.append(tensor.detach().float().contiguous())
                setattr(of, name, self._kept[-1].data_ptr())


def _fill_convolution(
    layer: _Layer, into: ConvLayer, weight: Tensor, bias: Tensor | None, has_silu: bool
) -> None:
    into.channels, into.kernel, into.has_silu = weight.shape[0], weight.shape[1], has_silu
    layer.point(into, weight=weight.T, bias=bias)


class Convolution:
    """A convolution of channels, with its activation."""

    def __init__(self, kernels: native.Kernels, weight: Tensor, bias: Tensor | None, has_silu: bool) -> None:
        self.kernels, self.dtype = kernels, weight.dtype
        structure = ConvLayer()
        self.layer = _Layer(structure)
        _fill_convolution(self.layer, structure, weight, bias, has_silu)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, has_silu: bool) -> Convolution | None:
        """Return what computes it, None where C cannot."""
        kernels = kernels_of(weight, weight.shape[0])
        return cls(kernels, weight, bias, has_silu) if kernels and weight.shape[1] <= MAX_CONVOLVED else None

    def __call__(self, inputs: Tensor, state: Tensor, segments: Segments) -> Tensor:
        """As `convolve`, for inputs whose rows are contiguous."""
        tokens, channels = inputs.shape
        if inputs.stride(1) != 1:
            raise ValueError(f"inputs with strides {inputs.stride()}: those of a row need to be contiguous")
        out = inputs.new_empty((tokens, channels))
        self.kernels(
            "convolve",
            self.dtype,
            self.layer.address,
            *_table(segments),
            tokens,
            len(state),
            inputs.data_ptr(),
            inputs.stride(0),
            native.pointer(state, self.dtype, *state.shape),
            out.data_ptr(),
        )
        return out


class Heads:
    """Mamba-2 between its two projections."""

    def __init__(self, kernels: native.Kernels, module: Any) -> None:
        self.kernels, self.dtype = kernels, module.conv1d.weight.dtype
        self.heads, self.width = module.num_heads, module.head_dim
        structure = HeadsLayer()
        self.layer, self.structure = _Layer(structure), structure
        _fill_convolution(self.layer, structure.conv, module.conv1d.weight[:, 0], module.conv1d.bias, True)
        structure.heads, structure.width = module.num_heads, module.head_dim
        structure.size, structure.groups = module.ssm_state_size, module.n_groups
        structure.least_step, structure.most_step = (
            min(limit, LIMITLESS) for limit in module.time_step_limit
        )
        self.layer.point(
            structure, step_bias=module.dt_bias, decay=-module.A_log.detach().float().exp(), skip=module.D
        )
        if getattr(module, "mamba_rms_norm", True):
            structure.epsilon = module.norm.variance_epsilon
            structure.norm_groups = module.n_groups
            structure.norm_before_gate = getattr(module.norm, "norm_before_gate", False)
            self.layer.point(structure, norm=module.norm.weight)

    @classmethod
    def of(cls, module: Any) -> Heads | None:
        """Return what computes a layer, None where C cannot."""
        weight, inner = module.conv1d.weight, module.num_heads * module.head_dim
        kernels = kernels_of(weight, weight.shape[0], module.head_dim, inner // module.n_groups)
        fits = (
            weight.shape[2] <= MAX_CONVOLVED
            and module.ssm_state_size % STATE_TILE == 0
            and is_silu(module.act)
        )
        return cls(kernels, module) if kernels and fits else None

    def __call__(self, projected: Tensor, conv_state: Tensor, state: Tensor, segments: Segments) -> Tensor:
        """Return the gated results [tokens, inner] for what the first projection gave."""
        tokens, channels = len(projected), self.structure.conv.channels
        inner = self.heads * self.width
        out = projected.new_empty((tokens, inner))
        workspace = torch.empty(
            min(tokens, ROUND_TOKENS) * (channels + inner + 2 * STATE_LANES), dtype=torch.float32
        )
        self.kernels(
            "scan_heads",
            self.dtype,
            self.layer.address,
            *_table(segments),
            tokens,
            len(state),
            native.pointer(projected, self.dtype, tokens, inner + channels + self.heads),
            native.pointer(conv_state, self.dtype, *conv_state.shape),
            native.pointer(state, torch.float32, *state.shape),
            workspace.data_ptr(),
            out.data_ptr(),
        )
        return out


class Channels:
    """Mamba's recurrence and its gate."""

    def __init__(
        self, kernels: native.Kernels, dtype: torch.dtype, decay: Tensor, skip: Tensor, groups: int
    ) -> None:
        self.kernels, self.dtype = kernels, dtype
        structure = ChannelsLayer()
        self.layer = _Layer(structure)
        structure.size, structure.channels = decay.shape
        structure.groups = groups
        self.layer.point(structure, decay=decay, skip=skip)

    @classmethod
    def of(cls, like: Tensor, decay: Tensor, skip: Tensor, groups: int) -> Channels | None:
        """Return what computes the recurrence with a decay [N, C], None where C cannot."""
        size, channels = decay.shape
        kernels = kernels_of(like, channels // groups) if size % CHANNEL_TILE == 0 else None
        return cls(kernels, like.dtype, decay, skip, groups) if kernels else None

    def __call__(
        self,
        inputs: Tensor,
        steps: Tensor,
        keys: Tensor,
        queries: Tensor,
        gate: Tensor,
        state: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return the gated results [tokens, C]; steps: before softplus; keys and queries: [tokens,
        groups, N]."""
        tokens, channels = inputs.shape
        gate = gate if gate.stride(1) == 1 else gate.contiguous()
        of_layer = keys.shape[1] * keys.shape[2]
        if (
            keys.stride() != queries.stride()
            or keys.stride(2) != 1
            or keys.stride(1) * keys.shape[1] != of_layer
        ):
            keys, queries = keys.contiguous(), queries.contiguous()
        out = inputs.new_empty((tokens, channels))
        self.kernels(
            "scan_channels",
            self.dtype,
            self.layer.address,
            *_table(segments),
            tokens,
            len(state),
            native.pointer(inputs, self.dtype, tokens, channels),
            native.pointer(steps.to(self.dtype).contiguous(), self.dtype, tokens, channels),
            keys.data_ptr(),
            queries.data_ptr(),
            keys.stride(0),
            gate.data_ptr(),
            gate.stride(0),
            native.pointer(state, torch.float32, *state.shape),
            out.data_ptr(),
        )
        return out


class Numbers:
    """The recurrence of RG-LRU, with its gates."""

    def __init__(self, kernels: native.Kernels, dtype: torch.dtype, rate: Tensor) -> None:
        self.kernels, self.dtype = kernels, dtype
        self.rate = rate.detach().float().contiguous()

    @classmethod
    def of(cls, like: Tensor, rate: Tensor) -> Numbers | None:
        """Return what computes the recurrence of channels whose decay has the logarithm rate *
        gate, or None."""
        kernels = kernels_of(like, len(rate))
        return cls(kernels, like.dtype, rate) if kernels else None

    def __call__(
        self,
        inputs: Tensor,
        input_gates: Tensor,
        open_gates: Tensor,
        gates: Tensor,
        state: Tensor,
        started: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return the gated results [tokens, C]; the first two gates are before their sigmoids."""
        tokens, channels = inputs.shape
        out = inputs.new_empty((tokens, channels))
        self.kernels(
            "scan_numbers",
            self.dtype,
            self.rate.data_ptr(),
            channels,
            *_table(segments),
            tokens,
            len(state),
            *(
                native.pointer(of, self.dtype, tokens, channels)
                for of in (inputs, input_gates, open_gates, gates)
            ),
            native.pointer(state, torch.float32, *state.shape),
            native.pointer(started, torch.float32, len(state), 1),
            out.data_ptr(),
        )
        return out


class DeltaRule:
    """The gated delta rule, and the norm and gate of its results."""

    def __init__(
        self, kernels: native.Kernels, dtype: torch.dtype, shape: DeltaLayer, weight: Tensor
    ) -> None:
        self.kernels, self.dtype, self.shape = kernels, dtype, shape
        self.layer = _Layer(shape)
        self.layer.point(shape, norm=weight)

    @classmethod
    def of(
        cls, like: Tensor, heads: tuple[int, int], dims: tuple[int, int], decays: int, norm: Any
    ) -> DeltaRule | None:
        """Return what computes it, None where C cannot.

        heads: of keys and of values; dims: of a key and a value; decays: of a head and token; norm:
        the family's.
        """
        gates = {"silu": GATE_BY_SILU, "sigmoid": GATE_BY_SIGMOID}
        kernels = kernels_of(like, *dims) if norm.activation in gates and dims[0] <= MAX_KEY_DIM else None
        if kernels is None:
            return None
        shape = DeltaLayer(*heads, *dims, decays, None, norm.variance_epsilon, gates[norm.activation])
        return cls(kernels, like.dtype, shape, norm.weight)

    def __call__(
        self, mixed: Tensor, decay: Tensor, beta: Tensor, gate: Tensor, state: Tensor, segments: Segments
    ) -> Tensor:
        """Return the gated results [tokens, heads * V].

        mixed: queries, keys and values [tokens, …], convolved; decay: float32 [tokens, heads(, K)];
        beta: float32 [tokens, heads]; gate: [tokens, heads, V].
        """
        tokens, shape = len(mixed), self.shape
        inner = shape.heads * shape.value_dim
        out = mixed.new_empty((tokens, inner))
        self.kernels(
            "delta_rule",
            self.dtype,
            self.layer.address,
            *_table(segments),
            tokens,
            len(state),
            native.pointer(mixed, self.dtype, tokens, 2 * shape.key_heads * shape.key_dim + inner),
            native.pointer(decay.reshape(tokens, -1), torch.float32, tokens, shape.heads * shape.decays),
            native.pointer(beta, torch.float32, tokens, shape.heads),
            native.pointer(gate.reshape(tokens, -1), self.dtype, tokens, inner),
            native.pointer(state, torch.float32, *state.shape),
            out.data_ptr(),
        )
        return out


def _table(segments: Segments) -> tuple[int, int]:
    return segments.table.data_ptr(), len(segments.slots)
