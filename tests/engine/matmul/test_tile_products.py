"""Products by tiles (AMX): emulated where the processor has none, so packing and loops are checked
bit by bit anywhere."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import processors
import pytest
import torch
from emulated import (
    OnlyProducts,
    OnlyTiles,
    build,
    emulated,
    needs_tile_compiler,
    sums_in_the_order_of_tiles,
    with_a_mistake,
)

from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.matmul.backend_selection import MatmulBackend, choose_unquantized_backend
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.render.notes import render_engine_note

pytestmark = needs_tile_compiler
# outputs, inputs
SHAPES = [(8, 32), (32, 64), (33, 96), (64, 32), (96, 160), (250, 576), (130, 62)]
COUNTS = (1, 2, 5, 6, 7, 15, 16, 17, 31, 32, 33, 40, 64, 65, 131)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tile_rows", [1, 8, NO_TILES])
@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_and_vectors_give_the_bits_of_the_documented_order(
    emulated_tiles: OnlyTiles, tile_rows: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    before = emulated_tiles.count("loads")
    for outputs, inputs in SHAPES:
        weight, rows = (torch.randn(outputs, inputs).bfloat16(), torch.randn(max(COUNTS), inputs).bfloat16())
        expected = sums_in_the_order_of_tiles(rows, weight).bfloat16()
        panels = PlainPackedWeights.pack(weight, None, emulated_tiles, tile_rows)
        for count in COUNTS:
            assert torch.equal(panels.matmul(rows[:count]), expected[:count]), (outputs, inputs, count)
    assert (emulated_tiles.count("loads") > before) is (tile_rows != NO_TILES)


def test_a_row_has_the_same_bits_by_tiles_and_by_vectors(emulated_tiles: OnlyTiles) -> None:
    """So a job may decode few rows by vectors and many by tiles; also numbers too small to be
    normal."""
    torch.manual_seed(1)
    for scale in (1.0, 1e-19, 1e-38):
        weight, rows = (torch.randn(100, 256) * scale).bfloat16(), torch.randn(50, 256).bfloat16()
        by_tiles, by_vectors, mixed = (
            PlainPackedWeights.pack(weight, None, emulated_tiles, count).matmul(rows)
            for count in (1, NO_TILES, 20)
        )
        assert torch.equal(by_tiles.view(torch.int16), by_vectors.view(torch.int16))
        assert torch.equal(by_tiles.view(torch.int16), mixed.view(torch.int16))


def test_nothing_is_written_behind_the_results_and_no_input_behind_the_rows_counts(
    emulated_tiles: OnlyTiles,
) -> None:
    weight = torch.randn(33, 64).bfloat16()
    panels = PlainPackedWeights.pack(weight, None, emulated_tiles, 1)
    for count in (1, 15, 17, 33):
        room = torch.full(((count + 3) * 64,), float("nan"), dtype=torch.bfloat16)
        rows = room[: count * 64].view(count, 64)
        rows[:] = torch.randn(count, 64)
        result = torch.full((count * 33 + 40,), 7.0, dtype=torch.bfloat16)
        out = result[: count * 33].view(count, 33)
        emulated_tiles(
            "product",
            torch.bfloat16,
            rows.data_ptr(),
            count,
            64,
            ctypes.addressof(panels.matrix),
            None,
            0,
            out.data_ptr(),
        )
        assert (result[count * 33 :] == 7).all()
        assert out.isfinite().all()


@pytest.mark.thorough
def test_a_wrong_kernel_is_noticed_by_its_trial_and_not_used(tmp_path: Path) -> None:
    """The odd inputs of each pair are left out in this build."""
    flags = with_a_mistake(
        tmp_path, "tile_sums.h", "TILE_MULTIPLY_ADD(3, 5, 7);", "TILE_MULTIPLY_ADD(3, 5, 6);"
    )
    kernels = emulated(tmp_path, flags)
    choice = choose_unquantized_backend(
        [torch.nn.Linear(576, 96, dtype=torch.bfloat16)], torch.bfloat16, kernels, is_small_model=True
    )
    assert choice.way == MatmulBackend.panels
    assert choice.note is not None
    [left_out] = choice.note.values["ways"]
    off = left_out.values["how"]
    assert (left_out.values["way"], off.code) == ("tiles", "product_off")
    assert (off.values["rows"], off.values["outputs"], off.values["inputs"]) == (33, 80, 576)
    assert choice.note in choice.fact.values["reasons"]


@pytest.mark.thorough
def test_the_library_has_the_instructions_in_functions_of_their_own(tmp_path: Path) -> None:
    """They are compiled here although this processor may lack them; nothing else contains them."""
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump to read the machine code")
    library = build(tmp_path, "-O1", source="tiles_only.c", target=processors.build_flags())
    code = subprocess.run(["objdump", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    holders = {
        block.split(">:")[0].split("<")[-1]
        for block in code.split("\n\n")
        if re.search(r"\b(tdpbf16ps|tdpbusd|tileloadd|ldtilecfg|tilerelease)\b", block)
    }
    assert {name.partition(".")[0] for name in holders} == {
        "multiply_by_tiles", "configure_shapes", "release_tiles", "are_byte_sums_right",
        "score_by_tiles", "add_values_by_tiles", "multiply_bytes_by_tiles",
        "own_scores_by_tiles", "add_own_values_by_tiles",
    }  # fmt: skip


@processors.needs("amx", why="the other tests emulate it")
def test_real_tiles_give_the_bits_of_the_emulation(emulated_tiles: OnlyTiles, tmp_path: Path) -> None:
    compiled = native.load_kernels()
    assert compiled is not None
    if compiled.tile_kernel_problem:
        pytest.skip(render_engine_note(compiled.tile_kernel_problem))
    torch.manual_seed(0)
    real = OnlyProducts(build(tmp_path))
    for outputs, inputs in SHAPES:
        weight, rows = torch.randn(outputs, inputs).bfloat16(), torch.randn(131, inputs).bfloat16()
        for count in COUNTS:
            pair = [
                PlainPackedWeights.pack(weight, None, which, 1).matmul(rows[:count])
                for which in (real, emulated_tiles)
            ]
            assert torch.equal(*pair), (outputs, inputs, count)


def test_a_processor_without_tiles_says_why() -> None:
    compiled = native.load_kernels()
    processors.require_absent("amx")
    if compiled is None:
        pytest.skip("there are no kernels")
    assert compiled.tile_kernel_problem == native.TILE_PROBLEMS[2 if processors.has("bf16") else 1]
