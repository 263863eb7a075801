"""Quicker functions for some layers on a CPU: linear layers with packed weights, RMS norms in one pass.

torch rearranges a plain weight matrix at each product; packed once, it is read as it lies: in panels by products of our
own where the processor is made for them (panels.py), else in oneDNN's order. A norm out of seven torch operations reads
its rows seven times. The layers stay the model's own: only the function that an instance calls is exchanged, after it
has been tried, and put back when the job ends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from runner.checkpoints.footprint import PACKED_SHARE
from runner.core import machine
from runner.core.heap import Heap
from runner.core.mapped_files import MappedFiles
from runner.engines.local.kernels import native
from runner.engines.local.matrices import LayerWeights
from runner.engines.local.panels import Panels, are_quicker
from runner.engines.local.quantized_layers import QuantizedLayers

ROWS = 128  # for which the layout is chosen; right, if not always quickest, for any other number
MANY_TOKENS = 64  # of which a pass leaves enough behind for a look at it to be worth its time
Product = Callable[[torch.Tensor], torch.Tensor]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class FastLayers:
    """Layers of a model whose function is exchanged, until `restore`.

    packed_share: plain weights are packed, and held a second time, where they take at most so much of free memory.
    """

    def __init__(self, model: nn.Module, kernels: native.Kernels | None, packed_share: float = PACKED_SHARE) -> None:
        self.layers: list[nn.Module] = []
        self.notes: list[str] = []
        self.heap, self.packed_mib = Heap(), 0.0
        self.panels: dict[nn.Module, Panels] = {}
        plain = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and is_plain(layer)]
        size = sum(layer.weight.nbytes for layer in plain)
        if size <= packed_share * machine.available_mib() * machine.MIB:
            ours = {layer for layer in plain if are_quicker(layer.weight, kernels)}
            problems = {
                dtype: why_no_packing(dtype) for dtype in {one.weight.dtype for one in plain if one not in ours}
            }
            mapped = MappedFiles()
            for layer in plain:
                if kernels is not None and layer in ours:
                    self.panels[layer] = Panels.of(layer.weight, layer.bias, kernels)
                    self._exchange(layer, self.panels[layer].product, mapped)
                elif not problems[layer.weight.dtype]:
                    self._exchange(layer, by_onednn(layer.weight, layer.bias), mapped)
            self.notes += [
                f"{str(dtype).removeprefix('torch.')} weights are not packed, which makes products slower: {problem}"
                for dtype, problem in problems.items()
                if problem
            ]
        self.quantized = QuantizedLayers(model, self.heap)
        self.layers += self.quantized.exchanged
        self.notes += self.quantized.notes
        for layer in self.quantized.left:
            self._watch_heap(layer)
        if kernels is not None:
            for module in model.modules():
                if type(module).__name__.endswith("RMSNorm"):
                    self._norm(module, kernels)

    @property
    def matrices(self) -> dict[nn.Module, LayerWeights]:
        """The weights that products of our own read, by their layers."""
        return {**self.panels, **self.quantized.matrices}

    def restore(self) -> None:
        """Give every layer its own function back."""
        for layer in self.layers:
            del layer.forward
        self.layers, self.panels = [], {}

    def _exchange(self, layer: nn.Linear, product: Product, mapped: MappedFiles) -> None:
        """Let a layer go by a product of packed weights; its own are read no more."""
        layer.forward = product  # type: ignore[method-assign,assignment]
        self.layers.append(layer)
        self.packed_mib += layer.weight.nbytes / machine.MIB
        mapped.release(layer.weight.data_ptr(), layer.weight.nbytes)

    def _watch_heap(self, layer: nn.Linear) -> None:
        """Give back what quantized products of many tokens leave behind, before the next one."""
        own, heap = layer.forward, self.heap

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if rows.shape[-2] >= MANY_TOKENS:
                heap.trim_if_grown()
            return own(rows)

        layer.forward = forward  # type: ignore[method-assign,assignment]
        self.layers.append(layer)

    def _norm(self, layer: Any, kernels: native.Kernels) -> None:
        weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
        if epsilon is None or weight is None or weight.dtype not in native.FORMATS or weight.device.type != "cpu":
            return
        weight, dtype, width = weight.detach().contiguous(), weight.dtype, weight.numel()
        own = layer.forward

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if rows.dtype != dtype:
                other: torch.Tensor = own(rows)
                return other
            rows = rows.contiguous()
            result = torch.empty_like(rows)
            kernels(
                "norm", dtype, rows.data_ptr(), weight.data_ptr(), rows.numel() // width, width,
                ctypes.c_float(epsilon), result.data_ptr(),
            )  # fmt: skip
            return result

        with torch.no_grad():
            trial = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).to(dtype)
            expected = own(trial)
            off = (forward(trial).float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-9)
        if off <= TOLERANCE[dtype]:  # some families' norms do something else with their weight
            layer.forward = forward
            self.layers.append(layer)


def by_onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Return the product with weights in oneDNN's order."""
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)

    def product(rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
        return result

    return product


def is_plain(layer: nn.Linear) -> bool:
    """Whether it is torch's own layer with a plain matrix: quantized ones are subclasses or hold other tensors."""
    weight = layer.weight
    ours = type(layer) is nn.Linear and type(weight) in (nn.Parameter, torch.Tensor)
    return ours and weight.device.type == "cpu" and weight.dtype in native.FORMATS


@cache
def why_no_packing(dtype: torch.dtype) -> str:
    """Say why weights of a dtype cannot be packed here, empty where they can.

    The kernels are no public interface of torch and depend on the processor's instructions, so each dtype is tried.
    """
    try:
        probe, weight = torch.ones(2, 32, dtype=dtype), torch.eye(32, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        same = (torch.ops.mkldnn._linear_pointwise(probe, packed, None, "none", [], "") == probe).all()
        return "" if same else "this processor's packed product is wrong"
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        if "memory" in str(error):  # that passes, and what is returned here holds as long as the process lives
            raise
        return " ".join(str(error).split())[:160]
