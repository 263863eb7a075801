"""Layers that a library has quantized, or a checkpoint holds so, multiplied directly from the stored weights.

On a CPU the libraries unpack a weight again for each row, copy all of it in another format, or pass several times over
matrices of int32 and float32. The kernels do the same arithmetic while a panel of the weight is in the cache
(kernels/README.md). The weights are not changed, so other code can still read them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from runner_engine.devices.heap import Heap
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul import (
    blocks,
    byte_products,
    four_bit,
    groups,
    huge_pages,
    int8_dynamic,
    int8_stored,
    llm_int8,
)
from runner_engine.matmul.matrices import LayerWeights, QuantizedWeights, Workspace, difference, multiply, shifted_sums
from runner_engine.matmul.products import choose_unpacked
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.grouped import GroupedLinear, rounded_by_parts

TRIAL_ROWS = (43, 3)  # several tiles with a remainder; and so few that nothing is unpacked
TOLERANCE = 1e-2  # of the largest output: the last place of bfloat16 is 0.4 % of a number
PANEL = 32  # outputs; 4-bit weights must be whole panels

Forward = Callable[[torch.Tensor], torch.Tensor]
Maker = Callable[[Any, native.Kernels], tuple["QuantizedWeights", Forward]]


class UnsupportedLayer(Exception):
    """The kernels do not support a layer."""


class QuantizedLayers:
    """The quantized layers of a model: those that the kernels multiply, and those that are left to their library.

    Layers of int8_dynamic that are left on a CPU are multiplied by torch: its sums are exact on any processor.
    """

    def __init__(self, model: nn.Module, heap: Heap) -> None:
        self.left: list[nn.Linear] = []
        self.notes: list[str] = []
        self._rounding: list[nn.Module] = []
        self._embeddings: list[nn.Module] = []  # that take their rows from the head's panels
        self._tied = {one.weight.data_ptr(): one for one in model.modules() if isinstance(one, GgufEmbedding)}
        self.matrices: dict[nn.Module, LayerWeights] = {}
        self._kernels, self._workspace = native.kernels(), Workspace()
        self._heap = heap
        dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
        problems: dict[tuple[Any, ...], str] = {}
        by_tiles = byte_products.choice_for(model, self._kernels)
        self._tile_rows = 0 if by_tiles is None else by_tiles.tile_rows
        self.notes += [by_tiles.note] if by_tiles is not None and by_tiles.note else []
        unpacked = choose_unpacked(model, self._kernels)
        self._unpacked_tile_rows = 0 if unpacked is None else unpacked.tile_rows
        for layer in model.modules():
            if not isinstance(layer, nn.Linear):
                continue
            if int8_stored.is_of_bytes(layer) and self._multiplies_bytes(layer):
                continue
            if isinstance(layer, GgufLinear | GroupedLinear):
                self._multiply_strips(layer)
                continue
            own, make = layer.forward, self._maker(layer)
            if make is None:
                self.left += [layer] if type(layer) is not nn.Linear else []
                continue
            try:
                heap.trim_if_grown()
                it, forward = self._quantized(layer, make, dtype)
                expected: Forward = own
                if it.matrix.kind == WeightFormat.row_int8:
                    expected = llm_int8.forward_of(layer)
                elif int8_dynamic.is_dynamic(layer):
                    expected = int8_dynamic.forward_of(layer)
                key = (type(layer), layer.in_features, layer.out_features, layer.bias is None)
                if key not in problems:
                    problems[key] = self._difference(expected, forward, layer.in_features, dtype)
                if problems[key]:
                    raise UnsupportedLayer(problems[key])
            except UnsupportedLayer as reason:
                self.left.append(layer)
                by = "its library's own function"
                if int8_dynamic.is_dynamic(layer) and not int8_dynamic.rejection_reason(layer):
                    by = "torch"
                    layer.forward = int8_dynamic.forward_of(layer)  # type: ignore[method-assign,assignment]
                self._note(f"{type(layer).__name__} is multiplied by {by}, which is slower: {reason}")
            else:
                self.matrices[layer] = it
                layer.forward = forward  # type: ignore[method-assign,assignment]

    def _multiply_strips(self, layer: GgufLinear | GroupedLinear) -> None:
        """Let the kernels multiply weights that they unpack some inputs at a time, or leave the layer to torch."""
        if isinstance(layer, GgufLinear):
            problem, kind = blocks.problem(layer, self._kernels, self._unpacked_tile_rows), f"{layer.kind} blocks are"
            stored = [layer.weight]
        else:
            problem, kind = groups.problem(layer, self._kernels, self._unpacked_tile_rows), "GroupedLinear is"
            stored = list(layer.stored.values())
        if problem:
            self._note(f"{kind} multiplied by torch, which is slower: {problem}")
            self.left.append(layer)
            return
        assert self._kernels is not None
        self._heap.trim_if_grown()
        it: blocks.Blocks | groups.Groups
        if isinstance(layer, GgufLinear):
            release = self._mapped.release
            it = blocks.Blocks.of(layer, self._kernels, self._workspace, self._unpacked_tile_rows, release)
            embedding = self._tied.get(layer.weight.data_ptr())
            if embedding is not None and embedding.dtype in native.FORMATS and layer.order is None:
                it.exchange(embedding)
                self._embeddings.append(embedding)
        else:
            it = groups.Groups.of(layer, self._kernels, self._workspace, tile_rows=self._unpacked_tile_rows)
            groups.hold_panels(layer, it)
        own, formats, prepared = layer.forward, it.formats, None
        if isinstance(layer, GroupedLinear) and layer.layout.rows:
            prepared = layer.prepared
        if isinstance(layer, GroupedLinear) and layer.has_byte_rows and not groups.multiplies_bytes(layer):
            prepared = rounded_by_parts  # its products do not round rows
        if prepared is None:
            self.matrices[layer] = it
        else:
            self._rounding.append(layer)  # not a matrix alone: a pass in a single call would not round its rows

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if rows.dtype not in formats or not rows.numel():
                return own(rows)
            return it.product(rows if prepared is None else prepared(rows))

        layer.forward = forward  # type: ignore[method-assign,assignment]
        for tensor in stored:
            self._mapped.release(tensor.data_ptr(), tensor.nbytes)

    def _multiplies_bytes(self, layer: GroupedLinear) -> bool:
        """Let the kernels multiply rows and weights as bytes, which stay in their file; return whether they can."""
        if self._kernels is None:
            return False
        if problem := int8_stored.problem(layer, self._kernels, self._tile_rows):
            self._note(f"rows of {layer.class_name} are rounded by torch, which is slower: {problem}")
            return False
        self.matrices[layer] = it = int8_stored.weights_of(layer, self._tile_rows)
        layer.forward = self._forward(layer, it, lambda: True)  # type: ignore[method-assign,assignment]
        return True

    def _forward(self, layer: Any, it: QuantizedWeights, is_unchanged: Callable[[], bool]) -> Forward:
        """Return a function by these weights: the layer's own for other rows, or once it holds other weights.

        A library may convert a bias in place for rows of another number format.
        """
        own, kernels, bias_at = layer.forward, self._kernels, it.matrix.bias
        assert kernels is not None

        def forward(rows: torch.Tensor) -> torch.Tensor:
            bias = layer.bias
            has_bias = bias is None if bias_at is None else bias is not None and bias.data_ptr() == bias_at
            if rows.dtype not in it.formats or not rows.numel() or not has_bias or not is_unchanged():
                return own(rows)  # type: ignore[no-any-return]
            return multiply(kernels, rows, it, self._workspace.of(rows))

        return forward

    def _note(self, note: str) -> None:
        """Note something once."""
        self.notes += [note] if note not in self.notes else []

    @cached_property
    def _mapped(self) -> MappedFiles:
        """The mapped files; only a quantized model needs them."""
        return MappedFiles()

    @property
    def exchanged(self) -> list[nn.Module]:
        """The layers whose `forward` is replaced."""
        return [*self.matrices, *self._rounding, *self._embeddings]

    @property
    def workspace_mib(self) -> float:
        """The kernels' workspace."""
        return self._workspace.mib

    def _maker(self, layer: nn.Linear) -> Maker | None:
        """Return what makes the faster function of such layers; None where there is none."""
        made: dict[str, Maker] = {
            "Linear4bit": self._four_bit, "Linear8bitLt": self._int8,
            "Int8Tensor": self._int8_dynamic if int8_dynamic.is_dynamic(layer) else self._torchao_int8,
        }  # fmt: skip
        holders = (*type(layer).__mro__, type(layer.weight))
        return next((made[one.__name__] for one in holders if one.__name__ in made), None)

    def _quantized(self, layer: nn.Linear, make: Maker, dtype: torch.dtype) -> tuple[QuantizedWeights, Forward]:
        """Return a layer's weights with the faster function; UnsupportedLayer where there is none."""
        is_dynamic = int8_dynamic.is_dynamic(layer)
        if self._kernels is None:
            raise UnsupportedLayer("its kernels need a C compiler")
        if layer.training or layer.weight.device.type != "cpu" or dtype not in native.FORMATS:
            raise UnsupportedLayer("it is being trained, not on the CPU, or in another number format")
        if is_dynamic:
            return make(layer, self._kernels)
        with torch.no_grad():
            layer(torch.ones(1, layer.in_features, dtype=dtype))  # the library rearranges its weights in the first pass
        return make(layer, self._kernels)

    def _four_bit(self, layer: Any, kernels: native.Kernels) -> tuple[QuantizedWeights, Forward]:
        """Return weights and function for nf4 and fp4, in bitsandbytes' layout for this processor."""
        own, inputs, outputs = layer.forward, layer.in_features, layer.out_features
        state = layer.weight.quant_state
        if not getattr(state, "packing_format_for_cpu", False):
            return self._four_bit_rows(layer, kernels)
        block, table = state.blocksize, state.code.to(torch.bfloat16).repeat(2)
        fits = not inputs % block and not block % 2 and not outputs % PANEL
        if not fits or table.numel() != 32 or not kernels.has_quantized or state.absmax.dtype is not torch.bfloat16:
            raise UnsupportedLayer("its weights are packed in another way")
        are_pairs = layer.compute_dtype in (None, torch.bfloat16) and _is_of(layer.bias, torch.bfloat16)
        it = QuantizedWeights(WeightFormat.four_bit, inputs, outputs, (torch.bfloat16,) if are_pairs else ())
        it.matrix.block, it.matrix.tile_rows = block, self._unpacked_tile_rows

        def forward(rows: torch.Tensor) -> torch.Tensor:
            weight = layer.weight
            state = weight.quant_state
            if not getattr(state, "packing_format_for_cpu", False) or not rows.numel():
                return own(rows)  # type: ignore[no-any-return]
            cast = rows.to(layer.compute_dtype or rows.dtype)
            bias = None if layer.bias is None else layer.bias.to(cast.dtype)
            is_whole = (
                cast.dtype is torch.bfloat16
            )  # in other formats, the bias is added without rounding it to bfloat16
            it.point_at(weight.data, bias if is_whole else None, state.absmax, table)
            result = multiply(kernels, cast.to(torch.bfloat16), it, self._workspace.of(rows)).to(cast.dtype)
            if bias is not None and not is_whole:
                result += bias
            return result.to(rows.dtype)

        it.point_at(layer.weight.data, layer.bias, state.absmax, table)
        return it, forward

    def _four_bit_rows(self, layer: Any, kernels: native.Kernels) -> tuple[QuantizedWeights, Forward]:
        """Return weights and function for nf4 and fp4 as they are stored, where the library does not pack them."""
        if reason := four_bit.rejection_reason(layer):
            raise UnsupportedLayer(reason)
        own, stored, state = layer.forward, layer.weight, layer.weight.quant_state
        it = four_bit.weights_of(layer)

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if layer.weight is not stored or stored.quant_state is not state or not rows.numel():
                return own(rows)  # type: ignore[no-any-return]
            return multiply(kernels, rows.to(torch.bfloat16), it).to(rows.dtype)

        return it, forward

    def _int8(self, layer: Any, _: native.Kernels) -> tuple[QuantizedWeights, Forward]:
        """Return weights and function for LLM.int8(): rows are quantized, too, and outliers multiplied separately."""
        state, stored, bias = layer.state, layer.state.CB, layer.bias
        if state.has_fp16_weights or stored is None or stored.dtype is not torch.int8 or not stored.is_contiguous():
            raise UnsupportedLayer("its weights are not stored as int8")
        is_shared = layer.weight.data_ptr() == stored.data_ptr()
        scale, weight, sums = state.SCB.float().contiguous(), self._in_large_pages(stored), shifted_sums(stored)
        if is_shared:
            layer.weight.data = weight  # or what it was would stay in memory
        formats = tuple(dtype for dtype in native.FORMATS if _is_of(bias, dtype))
        it = QuantizedWeights(WeightFormat.row_int8, layer.in_features, layer.out_features, formats)
        it.matrix.threshold, it.matrix.tile_rows = state.threshold, self._tile_rows
        it.point_at(weight, bias, scale, sums)
        return it, self._forward(layer, it, lambda: state.CB is weight)

    def _int8_dynamic(self, layer: Any, _: native.Kernels) -> tuple[QuantizedWeights, Forward]:
        """Return weights and function for torchao's int8 of weights and rows, on any processor."""
        if reason := int8_dynamic.rejection_reason(layer):
            raise UnsupportedLayer(reason)
        stored, bias = layer.weight, layer.bias
        weight = self._in_large_pages(stored.qdata)
        scale, sums = stored.scale.flatten().contiguous(), shifted_sums(weight)
        formats = tuple(dtype for dtype in native.FORMATS if _is_of(bias, dtype))
        it = QuantizedWeights(WeightFormat.int8_dynamic, layer.in_features, layer.out_features, formats)
        it.matrix.tile_rows = self._tile_rows
        it.point_at(weight, bias, scale, sums)
        return it, self._forward(layer, it, lambda: layer.weight is stored)

    def _torchao_int8(self, layer: Any, _: native.Kernels) -> tuple[QuantizedWeights, Forward]:
        """Return weights and function for torchao's weight-only int8: rows stay bfloat16; the scale is applied last."""
        inputs, outputs, stored, bias = layer.in_features, layer.out_features, layer.weight, layer.bias
        weight, scale = stored.qdata, stored.scale.to(torch.bfloat16).flatten().contiguous()
        is_plain = stored.act_quant_kwargs is None and stored.act_pre_scale is None and stored.block_size[-1] == inputs
        if not (is_plain and weight.is_contiguous() and scale.numel() == outputs):
            raise UnsupportedLayer("its weights are stored in another way")
        if inputs % 4 or outputs % PANEL:
            raise UnsupportedLayer(f"its sizes are not multiples of 4 and {PANEL}")
        if not _is_of(layer.bias, torch.bfloat16):
            raise UnsupportedLayer("its bias has another number format")
        it = QuantizedWeights(WeightFormat.weight_int8, inputs, outputs, (torch.bfloat16,))
        it.matrix.tile_rows = self._unpacked_tile_rows
        it.point_at(self._in_large_pages(weight), bias, scale)
        return it, self._forward(layer, it, lambda: layer.weight is stored)

    def _in_large_pages(self, weight: torch.Tensor) -> torch.Tensor:
        """Move weights that each token reads whole to large pages, unless they are in a checkpoint's mapped file."""
        if not self._mapped.has(weight.data_ptr()):
            huge_pages.move(weight)
        return weight

    @staticmethod
    def _difference(own: Forward, forward: Forward, inputs: int, dtype: torch.dtype) -> str:
        """Return by how much the outputs for rows with outliers would differ; empty if that is only rounding."""
        for count in TRIAL_ROWS:
            rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)
            rows[:, ::50] *= 9
            with torch.no_grad():
                if problem := difference(forward(rows), own(rows), TOLERANCE):
                    return problem
        return ""


def _is_of(bias: torch.Tensor | None, dtype: torch.dtype) -> bool:
    """Whether there is no bias, or one of this number format."""
    return bias is None or bias.dtype is dtype
