"""How attention to shared keys is chosen: by a trial and a measurement, by force, with a fact that
says so; tiles are emulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import OnlyTiles, emulated_attention, needs_tile_compiler, with_a_mistake
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.attention import shared_attention
from runner_engine.attention.shared_attention import FORCED, ROWS, choose_shared_attention_backend
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul.backend_choice import BackendChoice
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.model import LocalModelConfig

HEADS = KvCacheSpec(2, 2, 3, 64, torch.bfloat16, torch.device("cpu"))
FROM_8_ROWS = note("tiles_from_rows", rows=8, vectors="emulation")


@pytest.mark.thorough
@needs_tile_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong", "code"),
    [
        ("tile_attention.h", "TILE_MULTIPLY_ADD(3, 5, 7);\n      }\n      TILE_STORE(2, at", "TILE_MULTIPLY_ADD(3, 5, 6);\n      }\n      TILE_STORE(2, at", "attention_off"),
        ("tile_attention.h", "memset(last + LANES * dim, 0,", "memset(last + LANES * dim, 0xff,", "attention_off"),
        ("tile_attention.h", "begin / at_once * at_once", "begin / LANES * LANES", "attention_bits_off"),
        ("tile_own_keys.h", "TILE_LOAD(7, first + 6 * LANES, bytes)", "TILE_LOAD(7, first + 4 * LANES, bytes)", "own_attention_off"),
    ],
    ids=["the wrong keys", "weights of what was never written", "blocks that depend on others", "wrong own values"],
)  # fmt: skip
def test_a_wrong_kernel_is_noticed_by_its_trial_and_not_used(
    file: str, right: str, wrong: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    choice = choose_shared_attention_backend(
        HEADS, emulated_attention(tmp_path, with_a_mistake(tmp_path, file, right, wrong))
    )
    assert choice is not None
    assert choice.tile_rows == 0
    assert choice.note is not None
    [left_out] = choice.note.values["ways"]
    assert (left_out.values["way"], left_out.values["is_attention"]) == ("tiles", True)
    assert left_out.values["how"].code == code
    assert choice.fact.values["reasons"] == (choice.note,)


def times(*milliseconds: float) -> dict[int, float]:
    return dict(zip(ROWS, milliseconds, strict=True))


@needs_tile_compiler
@pytest.mark.parametrize(
    ("tiles", "in_order", "own", "expected_rows", "code"),
    [
        # of rows 1, 4, 8, 16, 32 and 128
        (
            times(2, 2, 2, 3, 4, 16),
            times(1, 1, 3, 6, 12, 50),
            times(1, 1, 3, 6, 12, 50),
            8,
            "tiles_from_rows",
        ),
        (
            times(1, 1, 2, 3, 4, 16),
            times(2, 2, 3, 6, 12, 50),
            times(1, 1, 3, 6, 12, 50),
            1,
            "tiles_from_rows",
        ),
        (
            times(9, 9, 9, 9, 90, 90),
            times(1, 1, 2, 3, 8, 30),
            times(2, 2, 4, 6, 9, 50),
            NO_TILES,
            "order_of_tiles",
        ),
        (
            times(1, 1, 2, 3, 4, 49),
            times(2, 2, 3, 6, 12, 50),
            times(1, 1, 3, 3, 4, 50),
            0,
            "attention_by_vectors",
        ),
    ],
)
def test_the_fastest_is_chosen(
    emulated_tiles: OnlyTiles, tiles: Any, in_order: Any, own: Any, expected_rows: int, code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(FORCED, raising=False)
    took = {"tiles": tiles, "tile order": in_order, "vectors": own}
    monkeypatch.setattr(shared_attention, "_load_or_measure_attention_timings", lambda *_: took)
    choice = choose_shared_attention_backend(HEADS, emulated_tiles)
    assert choice is not None
    assert (choice.tile_rows, choice.note) == (expected_rows, None)
    assert (choice.fact.code, choice.fact.values.get("rows", expected_rows)) == (code, expected_rows)


@needs_tile_compiler
def test_it_is_measured_once_and_kept_beside_products(
    emulated_tiles: OnlyTiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    monkeypatch.setattr(emulated_tiles, "file", tmp_path / "kernels-1.so")
    fact = note("way_with_reasons", way=FROM_8_ROWS, reasons=(note("way_unmeasured"),))
    assert choose_shared_attention_backend(HEADS, emulated_tiles) == BackendChoice("tiles", fact, 8)
    monkeypatch.setattr(emulated_tiles, "is_kept", True)
    before = emulated_tiles.count("loads")
    first = choose_shared_attention_backend(HEADS, emulated_tiles)
    assert emulated_tiles.count("loads") > before
    [file] = tmp_path.glob("products-*.json")
    assert "attention of 3 x 64 to 512 keys, bfloat16" in file.read_text()
    before = emulated_tiles.count("loads")
    assert choose_shared_attention_backend(HEADS, emulated_tiles) == first
    assert emulated_tiles.count("loads") == before


@needs_tile_compiler
def test_a_way_is_forced(emulated_tiles: OnlyTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCED, "tiles")
    forced = (note("way_forced", variable=FORCED),)
    fact = note("way_with_reasons", way=FROM_8_ROWS, reasons=forced)
    assert choose_shared_attention_backend(HEADS, emulated_tiles) == BackendChoice(
        "tiles", fact, 8, is_free=False
    )
    narrow = choose_shared_attention_backend(replace(HEADS, dim=80), emulated_tiles)
    assert narrow is not None
    problem = note("heads_not_whole_tiles", dim=80, width=32)
    assert narrow.note == note("forced_way_fails", variable=FORCED, way="tiles", problem=problem)
    vectors = note("attention_by_vectors", vectors="emulation")
    assert narrow.fact == note("way_with_reasons", way=vectors, reasons=(narrow.note,))
    assert narrow.tile_rows == 0
    monkeypatch.setenv(FORCED, "vectors")
    fact = note("way_with_reasons", way=vectors, reasons=forced)
    assert choose_shared_attention_backend(HEADS, emulated_tiles) == BackendChoice(
        "vectors", fact, is_free=False
    )
    assert choose_shared_attention_backend(HEADS, None) is None, "torch computes it"


def test_a_word_that_is_no_way_is_rejected_before_the_model_is_loaded(
    opened: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCED, "fast")
    with raises(ConfigError, "unknown_choice", FORCED):
        opened(model=LocalModelConfig(name="embedded", device="cpu"))


@pytest.mark.thorough
def test_what_was_chosen_is_in_the_facts(
    opened: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = native.load_kernels()
    if compiled is None:
        pytest.skip("torch computes attention to shared keys here")
    monkeypatch.setenv(FORCED, "tiles")
    engine = opened(model=LocalModelConfig(name="embedded", device="cpu", dtype=Dtype.float32))
    problem = note("keys_not_bfloat16", dtype="float32")
    reason = note("forced_way_fails", variable=FORCED, way="tiles", problem=problem)
    vectors = compiled.name_vector_instructions(torch.float32)
    assert engine.load().facts["shared_attention"] == f"vectors, {vectors} ({render_engine_note(reason)})"
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    engine.install_layer_replacements(engine.loaded, heads)
    assert reason in engine.stats.notes
