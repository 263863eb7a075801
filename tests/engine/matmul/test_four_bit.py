"""4-bit weights in the order in which bitsandbytes stores them have the bits of the products of
unpacked weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processors
import pytest
import torch
from emulated import OnlyProducts, build
from library_layers import stored_four_bits
from refusals import refusal
from torch import nn

from runner_base.notes import note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul import four_bit
from runner_engine.matmul.layer_weights import multiply_with_kernel
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.matmul.quantized_layers import QuantizedLayers

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
is_x86 = processors.needs("avx2")
BF16 = torch.bfloat16
# kind, inputs, outputs, keys: whole panels and parts, one block and several, scales that are
# quantized or not
LAYERS: list[tuple[str, int, int, dict[str, Any]]] = [
    ("nf4", 192, 96, {}),
    ("nf4", 64, 32, {"double_quant": False}),
    ("nf4", 1088, 70, {}),
    ("fp4", 128, 5, {}),
    ("fp4", 576, 160, {}),
]
OTHERS = {
    "AVX2": ["-march=native", "-mno-avx512f"],
    "without AVX2": ["-march=native", "-mno-avx512f", "-mno-avx2"],
    "AVX-512": processors.build_flags(bf16=False, vnni=False),
    "AVX-512 with bfloat16": processors.build_flags(vnni=False),
}


def unpacked(layer: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.to(BF16).view(layer.out_features, layer.in_features)


def rows_of(count: int, inputs: int) -> torch.Tensor:
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))
    rows[0, 3] = 40
    return rows.to(BF16)


@has_kernels
@pytest.mark.parametrize(("kind", "inputs", "outputs", "keys"), LAYERS)
@pytest.mark.parametrize("bias", [False, True])
def test_they_are_the_products_of_the_unpacked_weights(
    kind: str, inputs: int, outputs: int, keys: dict[str, Any], bias: bool
) -> None:
    assert KERNELS is not None
    layer = stored_four_bits(kind, inputs, outputs, bias, **keys)
    own, held = layer.forward, layer.weight.data.clone()
    found = QuantizedLayers(nn.ModuleList([nn.Embedding(1, 1, dtype=BF16), layer]), HeapTrimmer())
    assert (found.replaced_layers, found.left, found.notes) == ([layer], [], [])
    assert found.matrices[layer].matrix.kind == WeightFormat.four_bit_rows
    plain = PlainPackedWeights.pack(unpacked(layer), layer.bias, KERNELS)
    for count in (1, 2, 6, 7, 40, 200):
        rows = rows_of(count, inputs)
        ours, library = layer(rows), own(rows).float()
        assert torch.equal(ours, plain.matmul(rows)), count
        assert (ours.float() - library).abs().max() <= 0.01 * library.abs().max()
        assert torch.equal(layer(rows.float()), ours.float()), (
            "rows in float32 are rounded, as the library does"
        )
    assert torch.equal(layer.weight.data, held), "nothing is packed"


@pytest.mark.thorough
@has_kernels
@is_x86
@pytest.mark.parametrize("processor", list(OTHERS))
def test_other_processors_have_the_same_bits(processor: str, tmp_path: Path) -> None:
    if processor.startswith("AVX-512"):
        processors.require("bf16" if "bfloat16" in processor else "avx512", emulation=True)
    kernels = OnlyProducts(build(tmp_path, target=OTHERS[processor]))
    for kind, inputs, outputs, keys in LAYERS:
        layer = stored_four_bits(kind, inputs, outputs, False, **keys)
        weights = four_bit.build_kernel_weights(layer)
        plain = PlainPackedWeights.pack(unpacked(layer), None, kernels)
        for count in (1, 5, 40, 200):
            rows = rows_of(count, inputs)
            found = multiply_with_kernel(kernels, rows, weights)
            assert torch.equal(found, plain.matmul(rows)), (processor, kind, inputs, outputs, count)
            assert torch.equal(multiply_with_kernel(kernels, rows[-1:], weights)[0], found[-1])


@has_kernels
def test_what_is_left_to_the_library() -> None:
    kinds: list[tuple[dict[str, Any], int, str]] = [
        ({"compute_dtype": torch.float32}, 64, "products_not_bfloat16"),
        ({}, 96, "blocks_across_rows"),
    ]
    for keys, inputs, reason in kinds:
        layer = stored_four_bits("nf4", inputs, 32, False, **keys)
        found = QuantizedLayers(nn.ModuleList([nn.Embedding(1, 1, dtype=BF16), layer]), HeapTrimmer())
        assert (found.replaced_layers, found.left) == ([], [layer])
        by_library = note("multiplied_by_library", kind="Linear4bit")
        assert found.notes == [note("slow_layers", instead=by_library, reason=note(reason))]


@has_kernels
@pytest.mark.parametrize(
    ("field", "value"), [("block", 48), ("block", 0), ("scale", None), ("constants", None)]
)
def test_what_c_refuses(field: str, value: Any) -> None:
    assert KERNELS is not None
    layer = stored_four_bits("nf4", 192, 32, False)
    weights, rows = four_bit.build_kernel_weights(layer), torch.ones(2, 192, dtype=BF16)
    multiply_with_kernel(KERNELS, rows, weights)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        multiply_with_kernel(KERNELS, rows.float(), weights)  # they would be read as pairs
    setattr(weights.matrix, field, value)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        multiply_with_kernel(KERNELS, rows, weights)
