"""Products of bytes by tiles (AMX), which are emulated: bit for bit those by vectors, tried,
measured and chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processors
import pytest
import torch
from emulated import OnlyTiles, emulated_attention, needs_byte_tile_compiler, with_a_mistake
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul import int8_matmul
from runner_engine.matmul.backend_choice import BackendChoice
from runner_engine.matmul.backend_selection import FORCED
from runner_engine.matmul.int8_matmul import ROWS, choose_int8_backend, choose_int8_backend_for_shapes
from runner_engine.matmul.layer_weights import (
    QuantizedWeights,
    compute_shift_correction,
    multiply_with_kernel,
)
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.render.notes import render_engine_note

pytestmark = needs_byte_tile_compiler
SHAPES = [(32, 64), (33, 96), (80, 1090), (250, 576), (7, 50)]  # outputs, inputs
COUNTS = (1, 4, 5, 15, 16, 17, 31, 32, 33, 64, 191, 192, 193, 260)
LAYERS = {(96, 576), (64, 96)}
VNNI = note("vnni")


def from_rows(rows: int) -> Note:
    return note("tiles_from_rows", rows=rows, vectors="VNNI")


def because(way: Note, reason: Note) -> Note:
    return note("way_with_reasons", way=way, reasons=(reason,))


BY_FORCE = note("way_forced", variable=FORCED)
BY_TILES = BackendChoice("tiles", because(from_rows(16), BY_FORCE), 16, is_free=False)


def weights_of(outputs: int, inputs: int, kind: WeightFormat, tile_rows: int) -> QuantizedWeights:
    random = torch.Generator().manual_seed(outputs)
    weight = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, generator=random)
    it = QuantizedWeights(kind, inputs, outputs, (torch.bfloat16,))
    it.set_tensors_read_by_c(
        weight,
        torch.ones(outputs).bfloat16(),
        torch.rand(outputs, generator=random),
        compute_shift_correction(weight),
    )
    it.matrix.tile_rows, it.matrix.threshold = tile_rows, 6.0
    return it


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [WeightFormat.int8_dynamic, WeightFormat.row_int8, WeightFormat.int8_stored])
@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_have_the_bits_of_vectors(
    emulated_tiles: OnlyTiles, kind: WeightFormat, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside outliers of LLM.int8(), and with sums that are added up over several parts of a
    panel."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    for outputs, inputs in SHAPES:
        rows = torch.randn(max(COUNTS), inputs).bfloat16()
        rows[3, 7] = 40
        workspace = torch.empty(
            compute_quantized_workspace_nbytes(len(rows), inputs, threads), dtype=torch.uint8
        )
        for count in COUNTS:
            before = emulated_tiles.count("byte_products")
            by_vectors, by_tiles, mixed = (
                multiply_with_kernel(
                    emulated_tiles, rows[:count], weights_of(outputs, inputs, kind, tile_rows), workspace
                )
                for tile_rows in (0, 1, 33)
            )
            assert torch.equal(by_tiles, by_vectors), (outputs, inputs, count)
            assert torch.equal(mixed, by_vectors), (outputs, inputs, count)
            is_by_tiles = emulated_tiles.count("byte_products") > before
            assert is_by_tiles is (count > 4), "few rows are multiplied by weights that are not unpacked"


def test_sums_are_exact_at_the_ends_of_the_range(emulated_tiles: OnlyTiles) -> None:
    for inputs, sign in ((2048, 1.0), (2048, -1.0), (65, -1.0)):
        rows = torch.full((20, inputs), sign * 3.0)
        weight = torch.full((40, inputs), -128, dtype=torch.int8)
        it = QuantizedWeights(WeightFormat.int8_dynamic, inputs, 40, (torch.bfloat16,))
        it.set_tensors_read_by_c(weight, None, torch.ones(40), compute_shift_correction(weight))
        it.matrix.tile_rows = 1
        workspace = torch.empty(compute_quantized_workspace_nbytes(20, inputs, 2), dtype=torch.uint8)
        scale = (torch.tensor(3.0) / 127.5).bfloat16().float()
        number = (sign * 3 / scale).round().clamp(-128, 127)
        expected = (number * -128 * inputs * scale).bfloat16()
        assert (multiply_with_kernel(emulated_tiles, rows.bfloat16(), it, workspace) == expected).all()


@pytest.mark.thorough
def test_other_sums_are_noticed_by_a_trial_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    mistake = ("quantized.h", "TILE_MULTIPLY_ADD_BYTES(3, 5, 7);", "TILE_MULTIPLY_ADD_BYTES(3, 5, 6);")
    choice = choose_int8_backend_for_shapes(
        LAYERS, emulated_attention(tmp_path, with_a_mistake(tmp_path, *mistake))
    )
    differ = note("bytes_differ", rows=43, outputs=80, inputs=96)
    left_out = note(
        "ways_left_out", ways=(note("way_left_out", way="tiles", is_attention=False, how=differ),)
    )
    assert choice == BackendChoice("vectors", because(VNNI, left_out), 0, left_out)


@pytest.mark.parametrize(
    ("tiles", "vectors", "expected"),
    [
        ((2, 2, 3, 9), (1, 2.5, 6, 24), 16),  # of rows 8, 16, 32 and 128
        ((1, 2, 3, 9), (2, 3, 6, 24), 8),
        ((2, 2, 7, 9), (3, 3, 6, 24), 128),
        ((2, 2, 3, 30), (1, 2, 6, 24), 0),
    ],
)
def test_tiles_multiply_from_so_many_rows_on_as_they_are_faster(
    emulated_tiles: OnlyTiles, tiles: Any, vectors: Any, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    took = {"tiles": dict(zip(ROWS, tiles, strict=True)), "vectors": dict(zip(ROWS, vectors, strict=True))}
    monkeypatch.setattr(int8_matmul, "load_or_measure_timings", lambda keys, *_: dict.fromkeys(keys, took))
    way, fact = ("tiles", from_rows(expected)) if expected else ("vectors", VNNI)
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BackendChoice(way, fact, expected)


def test_it_is_measured_once_and_kept(
    emulated_tiles: OnlyTiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    monkeypatch.setattr(emulated_tiles, "file", tmp_path / "kernels-1.so")
    unmeasured = because(from_rows(16), note("way_unmeasured"))
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BackendChoice("tiles", unmeasured, 16)
    monkeypatch.setattr(emulated_tiles, "is_kept", True)
    first, before = (
        choose_int8_backend_for_shapes(LAYERS, emulated_tiles),
        emulated_tiles.count("byte_products"),
    )
    [file] = tmp_path.glob("products-*.json")
    assert "96 x 576, int8" in file.read_text()
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == first
    assert emulated_tiles.count("byte_products") == before


def test_a_way_is_forced_as_that_of_other_products(
    emulated_tiles: OnlyTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCED, "panels")
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BackendChoice(
        "vectors", because(VNNI, BY_FORCE), is_free=False
    )
    monkeypatch.setenv(FORCED, "tiles")
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BY_TILES
    monkeypatch.setattr(emulated_tiles, "tile_kernel_problem", note("tiles_fail"))
    fails = note("forced_way_fails", variable=FORCED, way="tiles", problem=note("tiles_fail"))
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BackendChoice(
        "vectors", because(VNNI, fails), 0, fails, is_free=False
    )
    monkeypatch.delenv(FORCED)
    assert choose_int8_backend_for_shapes(LAYERS, emulated_tiles) == BackendChoice("vectors", VNNI)


def test_layers_of_bytes_go_by_tiles_and_others_ask_for_nothing(
    emulated_tiles: OnlyTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao", reason="the optional torchao is not installed")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    monkeypatch.setenv(FORCED, "tiles")
    monkeypatch.setattr(native, "load_kernels", lambda: emulated_tiles)
    layer: Any = nn.Linear(96, 64, dtype=torch.bfloat16)
    assert choose_int8_backend(layer, emulated_tiles) is None
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    assert choose_int8_backend(layer, emulated_tiles) == BY_TILES
    model = nn.ModuleList([nn.Embedding(1, 1, dtype=torch.bfloat16), layer.eval()])
    found = QuantizedLayers(model, HeapTrimmer())
    assert found.matrices[layer].matrix.tile_rows == 16
    assert found.notes == []
    rows = torch.randn(40, 96).bfloat16()
    before = emulated_tiles.count("byte_products")
    by_tiles = layer(rows)
    assert emulated_tiles.count("byte_products") > before
    found.matrices[layer].matrix.tile_rows = 0
    assert torch.equal(layer(rows), by_tiles)


@processors.needs("amx", why="the other tests emulate it")
def test_real_tiles_pass_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = native.load_kernels()
    assert compiled is not None
    if compiled.tile_kernel_problem:
        pytest.skip(render_engine_note(compiled.tile_kernel_problem))
    monkeypatch.setenv(FORCED, "tiles")
    assert choose_int8_backend_for_shapes(LAYERS, compiled) == BY_TILES
