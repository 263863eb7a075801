"""Products by tiles (AMX) with weights that are unpacked first, where the tiles are emulated: bit
for bit those by vectors, in the documented order, chosen and tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated import (
    OnlyTiles,
    emulated_attention,
    needs_byte_tile_compiler,
    sums_in_the_order_of_tiles,
    with_a_mistake,
)
from gguf_blocks import random_blocks
from group_layers import KINDS
from group_layers import layer_of as grouped_layer_of
from torch import nn

from runner_base.notes import note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NO_TILES, WeightFormat
from runner_engine.matmul import groups
from runner_engine.matmul.backend_selection import FORCED, choose_backend_for_unpacked_weights
from runner_engine.matmul.blocks import GgufWeights
from runner_engine.matmul.groups import GroupedWeights
from runner_engine.matmul.layer_weights import (
    LayerWeights,
    MatmulWorkspace,
    QuantizedWeights,
    multiply_with_kernel,
)
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES, dequantize_blocks
from runner_engine.models.grouped_linear import GroupedLinear

pytestmark = needs_byte_tile_compiler
COUNTS = (1, 2, 6, 7, 16, 31, 33, 65, 200)
WAYS = (1, NO_TILES, 20)  # by tiles, by vectors, and by vectors for few rows alone


def rows_of(inputs: int, scale: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(inputs)
    return (torch.randn(max(COUNTS), inputs, generator=random) * scale).bfloat16()


def check(
    kernels: OnlyTiles,
    by_way: dict[int, LayerWeights],
    rows: torch.Tensor,
    expected: torch.Tensor,
    fewest: int = 1,
) -> None:
    """Each way gives the expected bits, for any number of rows; tiles are loaded from `fewest` rows
    on."""
    workspace = torch.empty(
        compute_quantized_workspace_nbytes(len(rows), rows.shape[1], 2), dtype=torch.uint8
    )
    for tile_rows, weights in by_way.items():
        for count in COUNTS:
            before = kernels.count("loads")
            found = multiply_with_kernel(kernels, rows[:count], weights, workspace)
            assert torch.equal(found.view(torch.int16), expected[:count].view(torch.int16)), (
                tile_rows,
                count,
            )
            assert (kernels.count("loads") > before) is (count >= max(tile_rows, fewest))


def four_bit(codes: torch.Tensor, block: int, scale: torch.Tensor, table: torch.Tensor) -> QuantizedWeights:
    """Return weights of codes [outputs, inputs] in panels: a byte has one of the first 16 outputs
    and one of the others."""
    outputs, inputs = codes.shape
    # [half, panel, pair, output, 2]
    halves = codes.view(outputs // 32, 2, 16, inputs // 2, 2).permute(1, 0, 3, 2, 4)
    it = QuantizedWeights(WeightFormat.four_bit, inputs, outputs, (torch.bfloat16,))
    it.matrix.block = block
    it.set_tensors_read_by_c((halves[0] | halves[1] << 4).contiguous(), None, scale, table.repeat(2))
    return it


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("outputs", "inputs", "block"), [(32, 64, 64), (96, 1088, 64), (96, 1024, 512), (64, 96, 32)]
)
@pytest.mark.parametrize("size", [1.0, 1e-38])
def test_four_bit_blocks_are_summed_in_the_order_of_tiles_and_then_scaled(
    emulated_tiles: OnlyTiles, outputs: int, inputs: int, block: int, size: float
) -> None:
    """Also where sums are too small to be normal numbers, which count as 0 in every way."""
    random = torch.Generator().manual_seed(outputs)
    codes = torch.randint(16, (outputs, inputs), dtype=torch.uint8, generator=random)
    table, rows = torch.randn(16, generator=random).bfloat16(), rows_of(inputs, size)
    scale = torch.rand(inputs // block, outputs, generator=random).bfloat16()
    expected = torch.zeros(len(rows), outputs)
    for at in range(inputs // block):
        part = slice(at * block, (at + 1) * block)
        sums = sums_in_the_order_of_tiles(rows[:, part], table[codes[:, part].long()])
        expected = (sums.double() * scale[at].double() + expected.double()).float()
    by_way: dict[int, LayerWeights] = {}
    for tile_rows in WAYS:
        by_way[tile_rows] = weights = four_bit(codes, block, scale, table)
        weights.matrix.tile_rows = tile_rows
    if size == 1:
        check(emulated_tiles, by_way, rows, expected.bfloat16())
    else:  # the reference above keeps small numbers
        workspace = torch.empty(compute_quantized_workspace_nbytes(len(rows), inputs, 2), dtype=torch.uint8)
        check(
            emulated_tiles,
            by_way,
            rows,
            multiply_with_kernel(emulated_tiles, rows, by_way[NO_TILES], workspace),
        )


def test_blocks_that_are_no_whole_tiles_stay_with_vectors(emulated_tiles: OnlyTiles) -> None:
    codes = torch.randint(16, (32, 96), dtype=torch.uint8)
    weights = four_bit(codes, 48, torch.ones(2, 32).bfloat16(), torch.randn(16).bfloat16())
    workspace = torch.empty(compute_quantized_workspace_nbytes(40, 96, 2), dtype=torch.uint8)
    before, expected = (
        emulated_tiles.count("loads"),
        multiply_with_kernel(emulated_tiles, rows_of(96)[:40], weights, workspace),
    )
    weights.matrix.tile_rows = 1
    assert torch.equal(multiply_with_kernel(emulated_tiles, rows_of(96)[:40], weights, workspace), expected)
    assert emulated_tiles.count("loads") == before


@pytest.mark.parametrize(("outputs", "inputs"), [(32, 64), (96, 1088)])
def test_bytes_of_torchao_are_summed_in_the_order_of_tiles(
    emulated_tiles: OnlyTiles, outputs: int, inputs: int
) -> None:
    random = torch.Generator().manual_seed(outputs)
    weight = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, generator=random)
    scale, rows = torch.rand(outputs, generator=random).bfloat16(), rows_of(inputs)
    expected = sums_in_the_order_of_tiles(rows, weight).bfloat16().float() * scale.float()
    by_way: dict[int, LayerWeights] = {}
    for tile_rows in WAYS:
        by_way[tile_rows] = it = QuantizedWeights(
            WeightFormat.weight_int8, inputs, outputs, (torch.bfloat16,)
        )
        it.set_tensors_read_by_c(weight, None, scale)
        it.matrix.tile_rows = tile_rows
    check(emulated_tiles, by_way, rows, expected.bfloat16())


@pytest.mark.thorough
@pytest.mark.parametrize("name", TYPES)
def test_blocks_of_a_gguf_file_have_the_bits_of_unpacked_weights(
    emulated_tiles: OnlyTiles, name: str
) -> None:
    """A single row goes through no memory, several are multiplied by strips."""
    outputs, inputs = 75, 768
    layer = GgufLinear(
        nn.Linear(inputs, outputs, bias=False), random_blocks(name, outputs, inputs), name, None
    )
    weight, rows = (
        dequantize_blocks(layer.get_weight_blocks(0, outputs), name, inputs).bfloat16(),
        rows_of(inputs),
    )
    expected = PlainPackedWeights.pack(weight, None, emulated_tiles, 1).matmul(rows)
    ways: dict[int, LayerWeights] = {
        way: GgufWeights.from_layer(layer, emulated_tiles, MatmulWorkspace(), way) for way in WAYS
    }
    check(emulated_tiles, ways, rows, expected, fewest=2)


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "inputs", "bits"), [*((kind, 768, 4) for kind in KINDS), ("gptq", 320, 3)])
def test_groups_have_the_bits_of_unpacked_weights(
    emulated_tiles: OnlyTiles, kind: str, inputs: int, bits: int
) -> None:
    layer, rows = grouped_layer_of(kind, 96, inputs, bits)[0], rows_of(inputs)
    assert isinstance(layer, GroupedLinear)
    expected = PlainPackedWeights.pack(
        layer.dequantize_outputs(0, 96, torch.bfloat16), None, emulated_tiles, 1
    ).matmul(rows)
    ways: dict[int, LayerWeights] = {
        way: GroupedWeights.from_layer(layer, emulated_tiles, MatmulWorkspace(), tile_rows=way)
        for way in WAYS
    }
    check(emulated_tiles, ways, rows, expected)


def test_the_way_is_that_of_plain_weights_of_these_shapes(
    emulated_tiles: OnlyTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = nn.ModuleList([grouped_layer_of("gptq", 96, 256)[0]])
    monkeypatch.setattr(groups, "FORMATS", (torch.bfloat16,))  # the emulation has no other
    monkeypatch.setattr(native, "load_kernels", lambda: emulated_tiles)
    monkeypatch.setenv(FORCED, "tiles")
    choice = choose_backend_for_unpacked_weights(layers, emulated_tiles)
    assert choice is not None
    tiles = note("tiles_from_rows", rows=8, vectors="emulation")
    forced = (note("way_forced", variable=FORCED),)
    assert choice.fact == note("way_with_reasons", way=tiles, reasons=forced)
    assert choice.tile_rows == 8
    [weights] = QuantizedLayers(layers, HeapTrimmer()).matrices.values()
    assert weights.matrix.tile_rows == 8
    monkeypatch.setenv(FORCED, "panels")
    assert choose_backend_for_unpacked_weights(layers, emulated_tiles) is None
    monkeypatch.setenv(FORCED, "tiles")
    assert choose_backend_for_unpacked_weights(nn.ModuleList([nn.Linear(32, 32)]), emulated_tiles) is None, (
        "nothing is unpacked"
    )
    monkeypatch.setattr(emulated_tiles, "tile_kernel_problem", "no tiles here")
    assert choose_backend_for_unpacked_weights(layers, emulated_tiles) is None


@pytest.mark.thorough
def test_a_wrong_kernel_is_noticed_by_its_trial_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this build both panels of a pair are multiplied by the first one's weights."""
    right, wrong = (f"panels[2] = {{strip[0], u->second ? strip[{second}] : 0}}" for second in (1, 0))
    kernels = emulated_attention(tmp_path, with_a_mistake(tmp_path, "block_products.h", right, wrong))
    monkeypatch.setattr(native, "load_kernels", lambda: kernels)
    monkeypatch.setenv(FORCED, "tiles")
    layer = GgufLinear(nn.Linear(224, 96, bias=False), random_blocks("Q8_0", 96, 224), "Q8_0", None)
    found = QuantizedLayers(nn.ModuleList([layer]), HeapTrimmer())
    assert not found.matrices
    [slow] = found.notes
    assert slow.values["instead"] == note("blocks_multiplied_by_torch", kind="Q8_0")
    assert slow.values["reason"].code == "outputs_off"
