"""Faster functions for some layers on a CPU: linear layers with packed weights, RMS norms in one
pass.

torch rearranges a plain weight matrix at each product. Here it is packed once, in the way that is
fastest on this processor (products.py): in panels for our own products, or in oneDNN's order. A
norm of seven torch operations reads its rows seven times. The layers stay the model's own: only the
`forward` of an instance is replaced, after a trial, and restored when the job ends.
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
from runner_engine.decode.norms import norms_of, replace_norm
from runner_engine.devices.heap import Heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels import native
from runner_engine.kv_cache import Heads, kernels_for
from runner_engine.matmul import (
    OWN,
    Choice,
    ExpertLayer,
    GroupedExperts,
    LayerWeights,
    Panels,
    Product,
    QuantizedLayers,
    Way,
    choose_bytes,
    choose_plain,
    choose_unpacked,
    is_transposed,
    matrix_of,
    packing_problem,
    plain_layers,
    product_of,
)
from runner_engine.plan.load_plan import PACKED_SHARE, SHARED_BYTES, may_pack

MANY_TOKENS = 64  # a pass over fewer leaves too little garbage on the heap to be worth a look
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class FastLayers:
    """Layers of a model whose `forward` is replaced, until `restore`."""

    def __init__(
        self,
        model: nn.Module,
        kernels: native.Kernels | None,
        choices: Mapping[torch.dtype, Choice] | None = None,
    ) -> None:
        """Replace what can be faster; choices: the way of products with weights of each dtype, as
        `choices_for`."""
        self.layers: list[nn.Module] = []
        self.notes: list[Note] = []
        self.heap, self.packed_mib = Heap(), 0.0
        self.panels: dict[nn.Module, Panels] = {}
        choices = choices_for(model, kernels) if choices is None else choices
        mapped, unpacked = MappedFiles(), set[torch.dtype]()
        for layer in plain_layers(model):
            choice = choices[layer.weight.dtype]
            if is_transposed(layer) and choice.way not in OWN:
                continue  # torch multiplies by it as it lies
            release = None if is_transposed(layer) else mapped.release  # panels are made of a copy
            packed = product_of(choice, matrix_of(layer), layer.bias, kernels, release)
            if isinstance(packed, Panels):
                self.panels[layer] = packed
                packed = packed.product
            if packed is not None:
                self._replace_forward(layer, packed, mapped)
            elif choice.is_free:
                unpacked.add(layer.weight.dtype)
        self._share_tables(model, mapped)
        self.notes += [choice.note for choice in choices.values() if choice.note]
        self.notes += [
            note("slow_products", dtype=str(dtype).removeprefix("torch."), problem=problem)
            for dtype in unpacked
            if (problem := packing_problem(dtype))
        ]
        self.quantized = QuantizedLayers(model, self.heap)
        self.layers += self.quantized.exchanged
        self.notes += self.quantized.notes
        for layer in self.quantized.left:
            self._watch_heap(layer)
        tile_rows = {dtype: choice.tile_rows for dtype, choice in choices.items() if choice.way == Way.tiles}
        self.experts = GroupedExperts.of(model, kernels, self.matrices, tile_rows)
        self.notes += self.experts.notes
        if kernels is not None:
            norms = [layer for layer in norms_of(model) if _is_here(layer)]
            self.layers += [
                layer for layer in norms if replace_norm(layer, partial(_norm, kernels), TOLERANCE)
            ]

    @property
    def matrices(self) -> dict[nn.Module, LayerWeights]:
        """The weights that our own products read, by layer."""
        return {**self.panels, **self.quantized.matrices}

    @property
    def grouped(self) -> dict[nn.Module, ExpertLayer]:
        """The layers of experts that our own products read."""
        return self.experts.layers

    def restore(self) -> None:
        """Give every layer its own `forward` back."""
        for layer in self.layers:
            del layer.forward
        self.experts.restore()
        self.layers, self.panels = [], {}

    def _replace_forward(self, layer: nn.Linear, product: Product, mapped: MappedFiles) -> None:
        """Let a layer multiply by packed weights; its own weights are not read any more."""
        layer.forward = product  # type: ignore[method-assign,assignment]
        self.layers.append(layer)
        self.packed_mib += layer.weight.nbytes / machine.MIB
        mapped.release(layer.weight.data_ptr(), layer.weight.nbytes)

    def _share_tables(self, model: nn.Module, mapped: MappedFiles) -> None:
        """Let embeddings take their rows from the panels of a head with the same weights.

        Else their pages of the checkpoint, which were released, would come back into memory token
        by token.
        """
        weights = ((layer.weight, panels) for layer, panels in self.panels.items())
        heads = {weight.data_ptr(): panels for weight, panels in weights if isinstance(weight, torch.Tensor)}
        for table in model.modules():
            if not isinstance(table, nn.Embedding) or type(table) is not nn.Embedding:
                continue  # a family's own may scale its rows
            weight, panels = table.weight, heads.get(table.weight.data_ptr())
            is_in_file = weight.nbytes >= SHARED_BYTES and mapped.has(weight.data_ptr())
            if panels is not None and is_in_file and table.max_norm is None:
                table.forward = panels.rows  # type: ignore[method-assign,assignment]
                self.layers.append(table)

    def _watch_heap(self, layer: nn.Linear) -> None:
        """Return memory that quantized products of many tokens leave on the heap, before the next
        one."""
        own, heap = layer.forward, self.heap

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if rows.shape[-2] >= MANY_TOKENS:
                heap.trim_if_grown()
            return own(rows)

        layer.forward = forward  # type: ignore[method-assign,assignment]
        self.layers.append(layer)


def choices_for(
    model: Any, kernels: native.Kernels | None, packed_share: float = PACKED_SHARE
) -> dict[torch.dtype, Choice]:
    """Return the way of products with a model's weights, by their dtype.

    packed_share: plain weights are packed, which takes a second copy, if they need at most this
    share of free memory.
    """
    plain = plain_layers(model)
    dtypes = dict.fromkeys(layer.weight.dtype for layer in plain)
    if not may_pack(sum(layer.weight.nbytes for layer in plain), machine.available_mib(), packed_share):
        return dict.fromkeys(
            dtypes,
            Choice(
                Way.plain,
                note("way_with_reasons", way=note("torch_unpacked"), reasons=(note("too_little_memory"),)),
                is_free=False,
            ),
        )
    is_small = (
        sum(parameter.numel() for parameter in model.parameters()) < machine.ONE_THREAD_BELOW_PARAMETERS
    )
    return {dtype: choose_plain(plain, dtype, kernels, is_small) for dtype in dtypes}


def ways_of(
    model: nn.Module, heads: Heads, products: Mapping[torch.dtype, Choice], attention: Choice | None
) -> dict[str, Note]:
    """Describe the ways of products and of attention to shared keys that were chosen by
    measurements."""
    ways = dict[str, Note]()
    if choice := products.get(heads.dtype):
        ways["products"] = choice.fact
    if heads.device.type == "cpu":
        of_bytes = choose_bytes(model, kernels_for(heads))
        ways |= {} if of_bytes is None else {"int8_products": of_bytes.fact}
        unpacked = choose_unpacked(model, kernels_for(heads))
        ways |= {} if unpacked is None else {"unpacked_products": unpacked.fact}
    return ways | ({} if attention is None else {"shared_attention": attention.fact})


def _is_here(norm: Any) -> bool:
    weight = getattr(norm, "weight", None)
    return weight is not None and weight.dtype in native.FORMATS and weight.device.type == "cpu"


def _norm(kernels: native.Kernels, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalize rows in one call of C."""
    rows, width = rows.contiguous(), weight.numel()
    if rows.shape[-1] != width or rows.device.type != "cpu":
        raise ValueError(f"rows {list(rows.shape)} on {rows.device} for a norm of {width} numbers")
    result = torch.empty_like(rows)
    kernels(
        "norm",
        rows.dtype,
        rows.data_ptr(),
        weight.data_ptr(),
        rows.numel() // width,
        width,
        ctypes.c_float(epsilon),
        result.data_ptr(),
    )
    return result
