"""Convolutions and recurrences of recurrent layers in C, for states on the CPU (kernels/recurrent.h).

Each layer takes one C call.

A layer's constants are prepared once, in float32. Sums have one order in every pass: a
sequence's bits depend neither on other sequences nor on how its prompt was chunked.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure, addressof
from typing import Any

import torch
from torch import Tensor

from runner_engine.kernels import native
from runner_engine.kernels.state_structures import (
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
from runner_engine.recurrent.mixer import Segments

Activation = Callable[[Tensor], Tensor]
LIMITLESS = 3e38  # more than any time step


def is_silu(activation: Activation) -> bool:
    """Whether an activation is SiLU, the only activation that these C kernels support."""
    return type(activation).__name__ in ("SiLU", "SiLUActivation") or activation is torch.nn.functional.silu


def load_kernels_if_supported(tensor: Tensor, *widths: int) -> native.Kernels | None:
    """Return the C kernels, or None if they do not support the tensor's device, dtype or widths."""
    is_here = tensor.device.type == "cpu" and tensor.dtype in native.FORMATS
    fits = all(width % STATE_LANES == 0 for width in widths)
    return native.load_kernels() if is_here and fits else None


class _CStruct:
    """A C structure that also keeps the tensors behind its pointers alive."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self._kept = structure, list[Tensor]()

    @property
    def address(self) -> int:
        """Memory address of the C structure."""
        return addressof(self.structure)

    def set_pointers(self, struct: Structure, **tensors: Tensor | None) -> None:
        """Point fields of a C structure to float32 copies of tensors, and keep the copies alive."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self._kept.append(tensor.detach().float().contiguous())
                setattr(struct, name, self._kept[-1].data_ptr())


def _fill_convolution(
    holder: _CStruct, conv_struct: ConvLayer, weight: Tensor, bias: Tensor | None, has_silu: bool
) -> None:
    conv_struct.channels, conv_struct.kernel, conv_struct.has_silu = (
        weight.shape[0],
        weight.shape[1],
        has_silu,
    )
    holder.set_pointers(conv_struct, weight=weight.T, bias=bias)


class CompiledConvolution:
    """A causal convolution for each channel, followed by an activation, computed in C."""

    def __init__(self, kernels: native.Kernels, weight: Tensor, bias: Tensor | None, has_silu: bool) -> None:
        self.kernels, self.dtype = kernels, weight.dtype
        structure = ConvLayer()
        self.layer = _CStruct(structure)
        _fill_convolution(self.layer, structure, weight, bias, has_silu)

    @classmethod
    def create_if_supported(
        cls, weight: Tensor, bias: Tensor | None, has_silu: bool
    ) -> CompiledConvolution | None:
        kernels = load_kernels_if_supported(weight, weight.shape[0])
        return cls(kernels, weight, bias, has_silu) if kernels and weight.shape[1] <= MAX_CONVOLVED else None

    def __call__(self, inputs: Tensor, state: Tensor, segments: Segments) -> Tensor:
        """Convolve inputs that are contiguous for each token, and update the convolution state."""
        tokens, channels = inputs.shape
        if inputs.stride(1) != 1:
            raise ValueError(f"inputs must be contiguous per token, but have the strides {inputs.stride()}")
        out = inputs.new_empty((tokens, channels))
        self.kernels(
            "convolve",
            self.dtype,
            self.layer.address,
            *_segment_table_address(segments),
            tokens,
            len(state),
            inputs.data_ptr(),
            inputs.stride(0),
            native.get_tensor_address(state, self.dtype, *state.shape),
            out.data_ptr(),
        )
        return out


class CompiledMamba2:
    """Computes a Mamba-2 layer in C, except for its input and output projections."""

    def __init__(self, kernels: native.Kernels, module: Any) -> None:
        self.kernels, self.dtype = kernels, module.conv1d.weight.dtype
        self.heads, self.width = module.num_heads, module.head_dim
        structure = HeadsLayer()
        self.layer, self.structure = _CStruct(structure), structure
        _fill_convolution(self.layer, structure.conv, module.conv1d.weight[:, 0], module.conv1d.bias, True)
        structure.heads, structure.width = module.num_heads, module.head_dim
        structure.size, structure.groups = module.ssm_state_size, module.n_groups
        structure.least_step, structure.most_step = (
            min(limit, LIMITLESS) for limit in module.time_step_limit
        )
        self.layer.set_pointers(
            structure, step_bias=module.dt_bias, decay=-module.A_log.detach().float().exp(), skip=module.D
        )
        if getattr(module, "mamba_rms_norm", True):
            structure.epsilon = module.norm.variance_epsilon
            structure.norm_groups = module.n_groups
            structure.norm_before_gate = getattr(module.norm, "norm_before_gate", False)
            self.layer.set_pointers(structure, norm=module.norm.weight)

    @classmethod
    def create_if_supported(cls, module: Any) -> CompiledMamba2 | None:
        weight, inner = module.conv1d.weight, module.num_heads * module.head_dim
        kernels = load_kernels_if_supported(
            weight, weight.shape[0], module.head_dim, inner // module.n_groups
        )
        fits = (
            weight.shape[2] <= MAX_CONVOLVED
            and module.ssm_state_size % STATE_TILE == 0
            and is_silu(module.act)
        )
        return cls(kernels, module) if kernels and fits else None

    def __call__(self, projected: Tensor, conv_state: Tensor, state: Tensor, segments: Segments) -> Tensor:
        """Return the gated results [tokens, inner], given the output of the input projection."""
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
            *_segment_table_address(segments),
            tokens,
            len(state),
            native.get_tensor_address(projected, self.dtype, tokens, inner + channels + self.heads),
            native.get_tensor_address(conv_state, self.dtype, *conv_state.shape),
            native.get_tensor_address(state, torch.float32, *state.shape),
            workspace.data_ptr(),
            out.data_ptr(),
        )
        return out


class CompiledMamba:
    """Computes the recurrence and the output gate of a Mamba layer in C."""

    def __init__(
        self, kernels: native.Kernels, dtype: torch.dtype, decay: Tensor, skip: Tensor, groups: int
    ) -> None:
        self.kernels, self.dtype = kernels, dtype
        structure = ChannelsLayer()
        self.layer, self.structure = _CStruct(structure), structure
        structure.size, structure.channels = decay.shape
        structure.groups = groups
        self.layer.set_pointers(structure, decay=decay, skip=skip)

    @classmethod
    def create_if_supported(
        cls, reference_tensor: Tensor, decay: Tensor, skip: Tensor, groups: int
    ) -> CompiledMamba | None:
        """Create the recurrence with a decay [N, C].

        Returns None if the C kernels do not support it.
        """
        size, channels = decay.shape
        kernels = (
            load_kernels_if_supported(reference_tensor, channels // groups)
            if size % CHANNEL_TILE == 0
            else None
        )
        return cls(kernels, reference_tensor.dtype, decay, skip, groups) if kernels else None

    def __call__(
        self,
        inputs: Tensor,
        step_logits: Tensor,
        keys: Tensor,
        queries: Tensor,
        gate: Tensor,
        state: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return the gated results [tokens, C] of Mamba's recurrence.

        step_logits: time steps before softplus. keys and queries: [tokens, groups, N].
        """
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
            *_segment_table_address(segments),
            tokens,
            len(state),
            native.get_tensor_address(inputs, self.dtype, tokens, channels),
            native.get_tensor_address(step_logits.to(self.dtype).contiguous(), self.dtype, tokens, channels),
            keys.data_ptr(),
            queries.data_ptr(),
            keys.stride(0),
            gate.data_ptr(),
            gate.stride(0),
            native.get_tensor_address(state, torch.float32, *state.shape),
            out.data_ptr(),
        )
        return out


class CompiledRgLru:
    """Computes the RG-LRU recurrence and its gates in C."""

    def __init__(self, kernels: native.Kernels, dtype: torch.dtype, rate: Tensor) -> None:
        self.kernels, self.dtype = kernels, dtype
        self.rate = rate.detach().float().contiguous()

    @classmethod
    def create_if_supported(cls, reference_tensor: Tensor, rate: Tensor) -> CompiledRgLru | None:
        """Create the recurrence. Returns None if the C kernels do not support it.

        The log decay is rate * gate.
        """
        kernels = load_kernels_if_supported(reference_tensor, len(rate))
        return cls(kernels, reference_tensor.dtype, rate) if kernels else None

    def __call__(
        self,
        inputs: Tensor,
        input_gates: Tensor,
        decay_gates: Tensor,
        output_gates: Tensor,
        state: Tensor,
        started: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return the gated results [tokens, C].

        input_gates, decay_gates: values before the sigmoid.
        """
        tokens, channels = inputs.shape
        out = inputs.new_empty((tokens, channels))
        self.kernels(
            "scan_numbers",
            self.dtype,
            self.rate.data_ptr(),
            channels,
            *_segment_table_address(segments),
            tokens,
            len(state),
            *(
                native.get_tensor_address(of, self.dtype, tokens, channels)
                for of in (inputs, input_gates, decay_gates, output_gates)
            ),
            native.get_tensor_address(state, torch.float32, *state.shape),
            native.get_tensor_address(started, torch.float32, len(state), 1),
            out.data_ptr(),
        )
        return out


class CompiledDeltaRule:
    """Computes the gated delta rule in C, including the norm and gate of its results."""

    def __init__(
        self, kernels: native.Kernels, dtype: torch.dtype, shape: DeltaLayer, weight: Tensor
    ) -> None:
        self.kernels, self.dtype, self.shape = kernels, dtype, shape
        self.layer = _CStruct(shape)
        self.layer.set_pointers(shape, norm=weight)

    @classmethod
    def create_if_supported(
        cls,
        reference_tensor: Tensor,
        heads: tuple[int, int],
        dims: tuple[int, int],
        decays_per_head: int,
        norm: Any,
    ) -> CompiledDeltaRule | None:
        """Create the delta rule. Returns None if the C kernels do not support it.

        heads: numbers of key and value heads. dims: sizes of a key and a value. decays_per_head:
        per token. norm: the family's norm module.
        """
        gates = {"silu": GATE_BY_SILU, "sigmoid": GATE_BY_SIGMOID}
        kernels = (
            load_kernels_if_supported(reference_tensor, *dims)
            if norm.activation in gates and dims[0] <= MAX_KEY_DIM
            else None
        )
        if kernels is None:
            return None
        shape = DeltaLayer(
            *heads, *dims, decays_per_head, None, norm.variance_epsilon, gates[norm.activation]
        )
        return cls(kernels, reference_tensor.dtype, shape, norm.weight)

    def __call__(
        self, convolved: Tensor, decay: Tensor, beta: Tensor, gate: Tensor, state: Tensor, segments: Segments
    ) -> Tensor:
        """Return the gated results [tokens, heads * V] of the gated delta rule.

        convolved: convolved queries, keys and values [tokens, …]. decay: float32 [tokens, heads(,
        K)]. beta: float32 [tokens, heads]. gate: [tokens, heads, V].
        """
        tokens, shape = len(convolved), self.shape
        inner = shape.heads * shape.value_dim
        out = convolved.new_empty((tokens, inner))
        self.kernels(
            "delta_rule",
            self.dtype,
            self.layer.address,
            *_segment_table_address(segments),
            tokens,
            len(state),
            native.get_tensor_address(
                convolved, self.dtype, tokens, 2 * shape.key_heads * shape.key_dim + inner
            ),
            native.get_tensor_address(
                decay.reshape(tokens, -1), torch.float32, tokens, shape.heads * shape.decays
            ),
            native.get_tensor_address(beta, torch.float32, tokens, shape.heads),
            native.get_tensor_address(gate.reshape(tokens, -1), self.dtype, tokens, inner),
            native.get_tensor_address(state, torch.float32, *state.shape),
            out.data_ptr(),
        )
        return out


def _segment_table_address(segments: Segments) -> tuple[int, int]:
    return segments.table.data_ptr(), len(segments.slots)
