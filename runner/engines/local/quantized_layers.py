"""Layers that bitsandbytes or torchao has quantized, multiplied straight from the weights as they are held.

On a CPU the libraries unpack a weight anew for each row, copy all of it in another format, or pass several times over
matrices of int32 and float32.
kernels/quantized.h does the same arithmetic while a panel of the weight is in the cache, on processors that have the
instructions for it. The weights stay as they are, so that whoever reads them finds what the library left there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from runner.checkpoints.pass_memory import quantized_room_bytes
from runner.core.heap import Heap
from runner.core.machine import MIB
from runner.engines.local.kernels import native

TRIAL_ROWS = (43, 3)  # several strips and a rest; and so few that nothing is unpacked
TOLERANCE = 1e-2  # of the largest output: the last place of bfloat16 is 0.4 % of a number
PANEL = 32  # outputs; of 4-bit weights there are no parts of a panel
SHIFT = 128  # what quantized rows are moved by, so that they have no sign

Forward = Callable[[torch.Tensor], torch.Tensor]
Maker = Callable[[Any, native.Kernels], Forward]


class Unfit(Exception):
    """A layer is none that the kernels are made for."""


class QuantizedLayers:
    """The quantized layers of a model: those whose function is exchanged, and those that keep their own."""

    def __init__(self, model: nn.Module, heap: Heap) -> None:
        self.exchanged: list[nn.Linear] = []
        self.left: list[nn.Linear] = []
        self.notes: list[str] = []
        self._kernels, self._room = native.kernels(), torch.empty(0, dtype=torch.uint8)
        dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
        problems: dict[tuple[Any, ...], str] = {}
        for layer in model.modules():
            if not isinstance(layer, nn.Linear):
                continue
            own, make = layer.forward, self._maker(layer)
            if make is None:
                self.left += [layer] if type(layer) is not nn.Linear else []
                continue
            try:
                heap.look()
                forward = self._forward(layer, make, dtype)
                key = (type(layer), layer.in_features, layer.out_features, layer.bias is None)
                if key not in problems:
                    problems[key] = self._difference(own, forward, layer.in_features, dtype)
                if problems[key]:
                    raise Unfit(problems[key])
            except Unfit as reason:
                self.left.append(layer)
                note = f"{type(layer).__name__} is multiplied by its library's own function, which is slower: {reason}"
                self.notes += [note] if note not in self.notes else []
            else:
                layer.forward = forward  # type: ignore[method-assign,assignment]
                self.exchanged.append(layer)

    @property
    def room_mib(self) -> float:
        """What the kernels work in beside rows and weights."""
        return self._room.nbytes / MIB

    def _maker(self, layer: nn.Linear) -> Maker | None:
        """Return what makes the quicker function of such layers; None where nothing does."""
        made: dict[str, Maker] = {
            "Linear4bit": self._four_bit, "Linear8bitLt": self._int8, "Int8Tensor": self._torchao_int8
        }  # fmt: skip
        holders = (*type(layer).__mro__, type(layer.weight))
        return next((made[one.__name__] for one in holders if one.__name__ in made), None)

    def _forward(self, layer: nn.Linear, make: Maker, dtype: torch.dtype) -> Forward:
        """Return the quicker function of a layer; Unfit where there is none."""
        if self._kernels is None or not self._kernels.has_quantized:
            raise Unfit("its kernels need a C compiler, and a processor that multiplies bfloat16 and bytes (AVX512)")
        if layer.training or layer.weight.device.type != "cpu" or dtype not in native.FORMATS:
            raise Unfit("it is being trained, not on the CPU, or in another number format")
        with torch.no_grad():
            layer(torch.ones(1, layer.in_features, dtype=dtype))  # at the first pass the library arranges its weights
        return make(layer, self._kernels)

    def _four_bit(self, layer: Any, kernels: native.Kernels) -> Forward:
        """Of nf4 and fp4, in the order into which bitsandbytes brings them for such processors."""
        own, inputs, outputs = layer.forward, layer.in_features, layer.out_features
        state = layer.weight.quant_state
        block, code = state.blocksize, state.code.float().contiguous()
        as_packed = getattr(state, "packing_format_for_cpu", False) and state.absmax.dtype is torch.bfloat16
        if not as_packed or inputs % block or block % 2 or outputs % PANEL or code.numel() != 16:
            raise Unfit("its weights are packed in another way")

        def forward(rows: torch.Tensor) -> torch.Tensor:
            weight = layer.weight
            state = weight.quant_state
            if not getattr(state, "packing_format_for_cpu", False) or not rows.numel():
                return own(rows)  # type: ignore[no-any-return]
            cast = rows.to(layer.compute_dtype or rows.dtype)
            pairs = cast.to(torch.bfloat16).contiguous()
            count = rows.numel() // inputs
            result = torch.empty((*rows.shape[:-1], outputs), dtype=torch.bfloat16)
            kernels(
                "four_bit", None, pairs.data_ptr(), count, inputs, weight.data_ptr(), state.absmax.data_ptr(),
                code.data_ptr(), outputs, block, self._room_at(count, inputs), result.data_ptr(),
            )  # fmt: skip
            result = result.to(cast.dtype)
            if layer.bias is not None:
                result += layer.bias.to(cast.dtype)
            return result.to(rows.dtype)

        return forward

    def _int8(self, layer: Any, kernels: native.Kernels) -> Forward:
        """Of LLM.int8(): rows are quantized, too, and columns with outliers are multiplied apart."""
        own, state, inputs, outputs = layer.forward, layer.state, layer.in_features, layer.out_features
        held = state.CB
        if state.has_fp16_weights or held is None or held.dtype is not torch.int8 or not held.is_contiguous():
            raise Unfit("its weights are not held as int8")
        # some rows at a time: sums are made of a copy in int32
        sums = torch.cat([some.sum(1, dtype=torch.int32) for some in state.CB.split(256)]) * SHIFT
        scale, weight = state.SCB.float().contiguous(), state.CB
        what = _Int8Layer(inputs=inputs, outputs=outputs, threshold=state.threshold)

        def forward(rows: torch.Tensor) -> torch.Tensor:
            bias = layer.bias
            is_ours = rows.dtype in native.FORMATS and (bias is None or bias.dtype is rows.dtype)
            if state.CB is not weight or not is_ours or not rows.numel():
                return own(rows)  # type: ignore[no-any-return]
            given = rows.contiguous()
            result = torch.empty((*rows.shape[:-1], outputs), dtype=rows.dtype)
            what.x, what.y, what.weight = given.data_ptr(), result.data_ptr(), weight.data_ptr()
            what.scale, what.sums = scale.data_ptr(), sums.data_ptr()
            what.bias = None if bias is None else bias.data_ptr()
            what.is_f32, what.rows = rows.dtype is torch.float32, rows.numel() // inputs
            kernels("row_int8", None, ctypes.addressof(what), self._room_at(what.rows, inputs))
            return result

        return forward

    def _torchao_int8(self, layer: Any, kernels: native.Kernels) -> Forward:
        """Of torchao's weight-only int8: rows stay bfloat16, and the scale comes last."""
        own, inputs, outputs, held = layer.forward, layer.in_features, layer.out_features, layer.weight
        weight, scale = held.qdata, held.scale.to(torch.bfloat16).flatten().contiguous()
        is_plain = held.act_quant_kwargs is None and held.act_pre_scale is None and held.block_size[-1] == inputs
        if not (is_plain and weight.is_contiguous() and scale.numel() == outputs):
            raise Unfit("its weights are held in another way")
        if inputs % 4 or outputs % PANEL:
            raise Unfit(f"its sizes are no multiples of 4 and {PANEL}")

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if layer.weight is not held or rows.dtype is not torch.bfloat16 or not rows.numel():
                return own(rows)  # type: ignore[no-any-return]
            given, count = rows.contiguous(), rows.numel() // inputs
            result = torch.empty((*rows.shape[:-1], outputs), dtype=rows.dtype)
            kernels(
                "weight_int8", None, given.data_ptr(), count, inputs, weight.data_ptr(), scale.data_ptr(), outputs,
                self._room_at(count, inputs), result.data_ptr(),
            )  # fmt: skip
            if layer.bias is not None:
                result += layer.bias
            return result

        return forward

    def _room_at(self, rows: int, inputs: int) -> int:
        """Return where the kernels may work; it grows to what the largest layer takes."""
        needed = quantized_room_bytes(rows, inputs, torch.get_num_threads())
        if needed > self._room.numel():
            self._room = torch.empty(needed, dtype=torch.uint8)
        return self._room.data_ptr()

    @staticmethod
    def _difference(own: Forward, forward: Forward, inputs: int, dtype: torch.dtype) -> str:
        """Say by how much the outputs for rows with outliers would differ; empty where that is rounding."""
        for count in TRIAL_ROWS:
            rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)
            rows[:, ::50] *= 9
            with torch.no_grad():
                expected = own(rows).float()
                off = float((forward(rows).float() - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
            if not off <= TOLERANCE:
                return f"the outputs would be off by {off:.2g} of the largest"
        return ""


class _Int8Layer(ctypes.Structure):
    """As int8_layer in quantized.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias")),
        *((name, ctypes.c_int64) for name in ("is_f32", "rows", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "sums")),
        ("threshold", ctypes.c_float),
        ("y", ctypes.c_void_p),
    )
