"""Faster layers on the CPU: linear layers with packed weights, and fused RMS norms.

torch rearranges a plain weight matrix at each matmul. Here it is packed once for the
fastest backend of this processor: in tiles for our own kernels, or in oneDNN's order. A
norm of seven torch operations reads its input seven times. The layers stay the model's
own: only the `forward` of an instance is replaced, after a trial, and restored when the
job ends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from runner_base import machine
from runner_base.notes import Note, note
from runner_engine.decode.norms import find_rms_norms, replace_norm_if_equivalent
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels import native
from runner_engine.kv_cache import KvCacheSpec, get_attention_kernels_if_supported
from runner_engine.matmul import (
    OWN,
    BackendChoice,
    ExpertLayer,
    GroupedExperts,
    LayerWeights,
    MatmulBackend,
    MatmulFunction,
    PlainPackedWeights,
    QuantizedLayers,
    build_packed_matmul,
    choose_backend_for_unpacked_weights,
    choose_int8_backend,
    choose_unquantized_backend,
    find_onednn_problem,
    find_unquantized_layers,
    get_weight_matrix,
    is_transposed_linear,
)
from runner_engine.plan.load_plan import PACKED_SHARE, SHARED_BYTES, can_pack_weights

MANY_TOKENS = 64  # a pass over fewer leaves too little garbage on the heap to be worth a look
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
ROUNDED_OTHERWISE = 0.05  # of a norm's outputs: another order of its sum changes few roundings


class FastLayers:
    """Replaces the `forward` methods of a model's layers by faster functions, until `restore` is called."""

    def __init__(
        self,
        model: nn.Module,
        kernels: native.Kernels | None,
        matmul_choices: Mapping[torch.dtype, BackendChoice] | None = None,
    ) -> None:
        """Replace the `forward` of all layers that have a faster function.

        matmul_choices: the matmul backend per weight dtype.
        """
        self.layers: list[nn.Module] = []
        self.notes: list[Note] = []
        self.heap, self.packed_mib = HeapTrimmer(), 0.0
        self.panels: dict[nn.Module, PlainPackedWeights] = {}
        matmul_choices = choose_matmul_backends(model, kernels) if matmul_choices is None else matmul_choices
        mapped, unpacked = MappedFiles(), set[torch.dtype]()
        for layer in find_unquantized_layers(model):
            choice = matmul_choices[layer.weight.dtype]
            if is_transposed_linear(layer) and choice.way not in OWN:
                continue  # torch multiplies by it as it lies
            # panels are made of a copy
            release = None if is_transposed_linear(layer) else mapped.release_pages
            packed = build_packed_matmul(choice, get_weight_matrix(layer), layer.bias, kernels, release)
            if isinstance(packed, PlainPackedWeights):
                self.panels[layer] = packed
                packed = packed.matmul
            if packed is not None:
                self._replace_forward(layer, packed, mapped)
            elif choice.is_free:
                unpacked.add(layer.weight.dtype)
        self._read_embeddings_from_packed_lm_head(model, mapped)
        self.notes += [choice.note for choice in matmul_choices.values() if choice.note]
        self.notes += [
            note("slow_products", dtype=str(dtype).removeprefix("torch."), problem=problem)
            for dtype in unpacked
            if (problem := find_onednn_problem(dtype))
        ]
        self.quantized = QuantizedLayers(model, self.heap)
        self.layers += self.quantized.replaced_layers
        self.notes += self.quantized.notes
        for layer in self.quantized.left:
            self._wrap_forward_with_heap_release(layer)
        tile_rows = {
            dtype: choice.tile_rows
            for dtype, choice in matmul_choices.items()
            if choice.way == MatmulBackend.tiles
        }
        self.experts = GroupedExperts.replace_expert_layers(model, kernels, self.packed_weights, tile_rows)
        self.notes += self.experts.notes
        if kernels is not None:
            norms = [layer for layer in find_rms_norms(model) if _is_supported_norm(layer)]
            self.layers += [
                layer
                for layer in norms
                if replace_norm_if_equivalent(
                    layer, partial(_compute_rms_norm_in_c, kernels), TOLERANCE, ROUNDED_OTHERWISE
                )
            ]

    @property
    def packed_weights(self) -> dict[nn.Module, LayerWeights]:
        return {**self.panels, **self.quantized.matrices}

    @property
    def expert_layers(self) -> dict[nn.Module, ExpertLayer]:
        return self.experts.layers

    def restore(self) -> None:
        for layer in self.layers:
            del layer.forward
        self.experts.restore()
        self.layers, self.panels = [], {}

    def _replace_forward(self, layer: nn.Linear, packed_matmul: MatmulFunction, mapped: MappedFiles) -> None:
        """Replace a layer's matmul by a matmul with packed weights.

        The original weights are not read afterwards.
        """
        layer.forward = packed_matmul  # type: ignore[method-assign,assignment]
        self.layers.append(layer)
        self.packed_mib += layer.weight.nbytes / machine.MIB
        mapped.release_pages(layer.weight.data_ptr(), layer.weight.nbytes)

    def _read_embeddings_from_packed_lm_head(self, model: nn.Module, mapped: MappedFiles) -> None:
        """Make embeddings read from the packed lm_head if both share the same weights.

        Otherwise the checkpoint's released memory pages would return to memory token by token.
        """
        weights = ((layer.weight, panels) for layer, panels in self.panels.items())
        heads = {weight.data_ptr(): panels for weight, panels in weights if isinstance(weight, torch.Tensor)}
        for table in model.modules():
            if not isinstance(table, nn.Embedding) or type(table) is not nn.Embedding:
                continue  # a family's own may scale its rows
            weight, panels = table.weight, heads.get(table.weight.data_ptr())
            is_in_file = weight.nbytes >= SHARED_BYTES and mapped.is_mapped_address(weight.data_ptr())
            if panels is not None and is_in_file and table.max_norm is None:
                table.forward = panels.gather_weights_of_outputs  # type: ignore[method-assign,assignment]
                self.layers.append(table)

    def _wrap_forward_with_heap_release(self, layer: nn.Linear) -> None:
        own, heap = layer.forward, self.heap

        def forward(activations: torch.Tensor) -> torch.Tensor:
            if activations.shape[-2] >= MANY_TOKENS:
                heap.release_freed_memory_if_grown()
            return own(activations)

        layer.forward = forward  # type: ignore[method-assign,assignment]
        self.layers.append(layer)


def choose_matmul_backends(
    model: Any, kernels: native.Kernels | None, max_memory_fraction: float = PACKED_SHARE
) -> dict[torch.dtype, BackendChoice]:
    """Choose the fastest matmul backend for each dtype of unquantized weights in a model.

    Packing needs a second copy of the weights. Weights are packed only if they take at most
    `max_memory_fraction` of free memory.
    """
    plain = find_unquantized_layers(model)
    dtypes = dict.fromkeys(layer.weight.dtype for layer in plain)
    if not can_pack_weights(
        sum(layer.weight.nbytes for layer in plain), machine.available_memory_mib(), max_memory_fraction
    ):
        return dict.fromkeys(
            dtypes,
            BackendChoice(
                MatmulBackend.plain,
                note("way_with_reasons", way=note("torch_unpacked"), reasons=(note("too_little_memory"),)),
                is_free=False,
            ),
        )
    is_small = (
        sum(parameter.numel() for parameter in model.parameters()) < machine.ONE_THREAD_BELOW_PARAMETERS
    )
    return {dtype: choose_unquantized_backend(plain, dtype, kernels, is_small) for dtype in dtypes}


def describe_backends(
    model: nn.Module,
    kv_spec: KvCacheSpec,
    matmul_choices: Mapping[torch.dtype, BackendChoice],
    attention_choice: BackendChoice | None,
) -> dict[str, Note]:
    """Describe the selected backends for matmul and shared-prefix attention, with their timings."""
    ways = dict[str, Note]()
    if choice := matmul_choices.get(kv_spec.dtype):
        ways["products"] = choice.fact
    if kv_spec.device.type == "cpu":
        of_bytes = choose_int8_backend(model, get_attention_kernels_if_supported(kv_spec))
        ways |= {} if of_bytes is None else {"int8_products": of_bytes.fact}
        unpacked = choose_backend_for_unpacked_weights(model, get_attention_kernels_if_supported(kv_spec))
        ways |= {} if unpacked is None else {"unpacked_products": unpacked.fact}
    return ways | ({} if attention_choice is None else {"shared_attention": attention_choice.fact})


def _is_supported_norm(norm: Any) -> bool:
    weight = getattr(norm, "weight", None)
    return weight is not None and weight.dtype in native.FORMATS and weight.device.type == "cpu"


def _compute_rms_norm_in_c(
    kernels: native.Kernels, activations: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    activations, width = activations.contiguous(), weight.numel()
    if activations.shape[-1] != width or activations.device.type != "cpu":
        raise ValueError(
            f"a norm of width {width} on the CPU does not support activations "
            f"{list(activations.shape)} on {activations.device}"
        )
    result = torch.empty_like(activations)
    kernels(
        "norm",
        activations.dtype,
        activations.data_ptr(),
        weight.data_ptr(),
        activations.numel() // width,
        width,
        ctypes.c_float(epsilon),
        result.data_ptr(),
    )
    return result
