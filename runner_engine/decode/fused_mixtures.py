"""Mixtures of experts in the fused forward pass (C structures: kernels/mixture_structs.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from runner_engine.checkpoints.pass_memory import compute_expert_index_nbytes
from runner_engine.decode.layouts import LayerLayout, MixtureLayout, MlpLayout, NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import CACHE_LINE, PHASE_BYTES, Activation
from runner_engine.kernels.expert_structures import (
    EXPERT_PASS_BYTES,
    EXPERT_PRODUCT_BYTES,
    MIXTURE_PHASES,
    ExpertSet,
    Mixture,
)
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.matmul import ExpertLayer, get_activation_quantization_parameters

MatrixOf = Callable[[Any, int, int], Matrix]  # of a linear layer with so many inputs and outputs


class FusedMixtures:
    """Mixture-of-experts layers that the C kernels compute.

    PyTorch modules compute all other mixtures.
    """

    def __init__(
        self,
        layers: Sequence[LayerLayout],
        expert_layers: Mapping[nn.Module, ExpertLayer],
        dtype: torch.dtype,
        build_matrix: MatrixOf,
    ) -> None:
        """Build the C structures of all supported mixtures of experts.

        expert_layers: expert layers whose weights the C kernels already read.
        """
        self.experts, self.dtype, self.matrix_of = expert_layers, dtype, build_matrix
        self.layers = len(layers)
        self.of_layer: dict[int, Mixture] = {}
        self.of_attention: dict[int, Mixture] = {}
        self.counts: dict[
            nn.Module, torch.Tensor
        ] = {}  # how often C has chosen each expert, by the experts' module
        self.is_by_row = True  # a row's sums do not depend on other rows
        self._kept: list[Any] = []  # tensors of which C has only the addresses
        for number, layer in enumerate(layers):
            found = layer.mixture
            if found is None or found.experts not in expert_layers:
                continue
            try:
                self.of_layer[number] = self._build_mixture_struct(found)
            except NotFusable:
                continue
        for number, layer in enumerate(layers):
            found = layer.attention.experts if layer.attention else None
            if found is None:
                continue
            if found.experts not in expert_layers:
                raise NotFusable("the C kernels do not read the experts of attention")
            self.of_attention[number] = self._build_mixture_struct(found)

    @property
    def all_mixtures(self) -> list[Mixture]:
        return [*self.of_layer.values(), *self.of_attention.values()]

    @property
    def has_shared_experts(self) -> bool:
        return any(one.shared_inner for one in self.of_layer.values())

    @property
    def max_experts_per_token(self) -> int:
        """Largest number of active experts per token in any layer. 1 for models without experts."""
        return max((int(one.set.chosen) for one in self.all_mixtures), default=1)

    @property
    def max_inputs(self) -> int:
        return max((int(max(one.set.inner, one.shared_inner)) for one in self.all_mixtures), default=0)

    @property
    def needs_workspace(self) -> bool:
        return any(one.set.needs_workspace for one in self.all_mixtures)

    def layer_fields(self, layer: int) -> dict[str, Any]:
        return {"mixture": ctypes.addressof(self.of_layer[layer])}

    def attention_address(self, layer: int) -> int | None:
        return ctypes.addressof(self.of_attention[layer]) if layer in self.of_attention else None

    def compute_workspace_sizes(self, num_tokens: int) -> list[int]:
        """Return the bytes of each workspace buffer for mixtures of experts (see mixture_structs.h)."""
        all_of = self.all_mixtures
        if not all_of:
            return []
        size, chosen = self.dtype.itemsize, self.max_experts_per_token
        rows, inner, shared = (
            num_tokens * chosen,
            max(one.set.inner for one in all_of),
            max(o.shared_inner for o in all_of),
        )
        pieces = [num_tokens * max(one.set.experts for one in all_of) * 4, rows * 4, rows * 8]
        pieces += [
            num_tokens * 2 * shared * size,
            num_tokens * shared * size,
            2 * self.layers * EXPERT_PASS_BYTES,
        ]
        pieces += [rows * all_of[0].set.hidden * size, rows * inner * size, rows * 2 * inner * size]
        pieces += [
            compute_expert_index_nbytes(num_tokens * one.set.chosen, one.set.experts, EXPERT_PRODUCT_BYTES)
            + CACHE_LINE
            for one in all_of
        ]
        return [*pieces, len(all_of) * MIXTURE_PHASES * PHASE_BYTES]

    def _build_mixture_struct(self, layout: MixtureLayout) -> Mixture:
        layer, router, formula = self.experts[layout.experts], layout.router, layout.router.formula
        if layer.dtype is not self.dtype or router.weight.dtype is not self.dtype:
            raise NotFusable("its experts have another number format")
        own = ExpertSet.from_buffer_copy(layer.set)
        own.chosen = formula.chosen
        weight, added = (router.weight.contiguous(), None if router.added is None else router.added.float())
        at = native.get_tensor_address(weight, self.dtype, own.experts, own.hidden)
        of_added = (
            None
            if added is None
            else native.get_tensor_address(added.contiguous(), torch.float32, own.experts)
        )
        with torch.inference_mode(False):  # it is changed outside as well
            counts = torch.zeros(own.experts, dtype=torch.int64)
        shared = self._build_shared_expert_fields(layout.shared, own.hidden, layout.shared_scale)
        self._kept += [layer, weight, added]
        self.is_by_row = self.is_by_row and layer.is_by_row
        self.counts[layout.experts] = counts
        return Mixture(
            set=own,
            router=at,
            bias=of_added if formula.has_bias else None,
            correction=of_added if formula.has_correction else None,
            counts=counts.data_ptr(),
            scores=formula.scores,
            rounds_logits=formula.rounds_logits,
            rounds_weights=formula.rounds_weights,
            scales_inputs=layout.scales_inputs,
            groups=formula.groups,
            chosen_groups=formula.chosen_groups,
            best_of_group=formula.best_of_group,
            normalizes=formula.normalizes,
            epsilon=formula.epsilon,
            scale=formula.scale,
            **shared,
        )

    def _build_shared_expert_fields(
        self, mlp: MlpLayout | None, hidden_size: int, scale: torch.Tensor | None
    ) -> dict[str, Any]:
        if mlp is None:
            return {}
        wide = mlp.inner * (1 + mlp.has_gate) // len(mlp.into)
        into = [self.matrix_of(part, hidden_size, wide) for part in mlp.into]
        if len({(*get_activation_quantization_parameters(matrix), matrix.block) for matrix in into}) > 1:
            raise NotFusable("gate_proj and up_proj of the shared expert have different quantizations")
        if scale is not None:
            if scale.dtype is not self.dtype:
                raise NotFusable("the scale of the shared expert has a different dtype")
            self._kept.append(scale := scale.contiguous())
        return {
            "shared_inner": mlp.inner,
            "shared_count": len(into),
            "shared_activation": Activation.silu_in_product if mlp.has_fused_gating else mlp.activation,
            "shared_has_gate": mlp.has_gate,
            "shared_scale": None
            if scale is None
            else native.get_tensor_address(scale, self.dtype, hidden_size),
            "shared_into": self._keep_matrices_alive(*into),
            "shared_down": self._keep_matrices_alive(self.matrix_of(mlp.out, mlp.inner, hidden_size)),
        }

    def _keep_matrices_alive(self, *matrices: Matrix) -> int:
        self._kept.append((Matrix * len(matrices))(*matrices))
        return ctypes.addressof(self._kept[-1])
