"""The way of products: chosen by what was measured, kept, forced, and replaced by the next one where it is missing."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from torch import nn

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import Note, note, text_note
from runner_base.texts import to_signed_json
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul import backend_selection, interleaved_timing
from runner_engine.matmul import timing_cache as keeping
from runner_engine.matmul.backend_selection import FORCED, MatmulBackend, choose_unquantized_backend
from runner_engine.matmul.interleaved_timing import BackendTimings, MatmulBuilders, Shape, time_matmuls
from runner_engine.matmul.timing_cache import load_layer_timings
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig

LAYERS = [nn.Linear(64, 96, dtype=torch.bfloat16), nn.Linear(96, 64, dtype=torch.bfloat16)]
KERNELS = native.load_kernels()
COMPILED = pytest.mark.skipif(KERNELS is None, reason="no C compiler is here, so nothing is called in C")


def seconds_of(times: dict[str, Sequence[float]]) -> Callable[..., dict[Shape, BackendTimings]]:
    """Return measurements in which each way takes so long for the numbers of rows, in order."""

    def kept(
        _: MatmulBuilders, shapes: Sequence[Shape], rows: Sequence[int], *__: Any
    ) -> dict[Shape, BackendTimings]:
        return {
            shape: {way: dict(zip(rows, some, strict=True)) for way, some in times.items()}
            for shape in shapes
        }

    return kept


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let only some ways be usable, with seconds of their own."""
    monkeypatch.delenv(FORCED, raising=False)
    monkeypatch.delenv("RUNNER_WITHOUT", raising=False)

    def make(**times: Sequence[float] | None) -> None:
        def problem(way: MatmulBackend, *_: Any) -> Note | None:
            return None if way == MatmulBackend.plain or way in times else text_note(f"no {way} here")

        monkeypatch.setattr(backend_selection, "find_backend_problem", problem)
        monkeypatch.setattr(
            backend_selection,
            "load_layer_timings",
            seconds_of({key: some for key, some in times.items() if some}),
        )

    return make


def test_the_fastest_over_the_expected_passes_is_chosen(usable: Callable[..., None]) -> None:
    kernels: Any = KERNELS or object()
    usable(panels=(1, 4, 40), onednn=(2, 4, 9), plain=(2, 9, 40))  # at 4, 16 and 128 rows
    choice = choose_unquantized_backend(LAYERS, torch.bfloat16, kernels)
    assert (choice.way, choice.fact) == (MatmulBackend.onednn, note("onednn_packed"))
    usable(panels=(1, 4, 11), onednn=(2, 4, 9), plain=(2, 9, 40))
    choice = choose_unquantized_backend(LAYERS, torch.bfloat16, kernels)
    assert choice.way == MatmulBackend.panels, (
        "a pass in a single call needs them, and saves more than products cost"
    )
    assert choice.fact.code == "panels"
    usable(onednn=(2, 4, 9), plain=(1, 1, 1))
    assert choose_unquantized_backend(LAYERS, torch.bfloat16, kernels).way == MatmulBackend.onednn, (
        "nothing of ours is there: not measured"
    )


def test_small_models_use_products_of_their_own(usable: Callable[..., None]) -> None:
    usable(panels=(9, 9, 90), onednn=(1, 1, 1), plain=(1, 1, 1))
    kernels: Any = KERNELS or object()
    assert (
        choose_unquantized_backend(LAYERS, torch.bfloat16, kernels, is_small_model=True).way
        == MatmulBackend.panels
    )
    assert choose_unquantized_backend(LAYERS, torch.bfloat16, kernels).way == MatmulBackend.onednn


@pytest.mark.parametrize(
    ("tiles", "vectors", "expected"),
    [
        ((2, 2, 4, 16), (1, 3, 6, 50), 8),  # of rows 4, 8, 16 and 128
        ((1, 1, 2, 9), (2, 3, 6, 50), 4),
        ((2, 4, 4, 16), (1, 3, 6, 50), 16),
        ((2, 4, 9, 90), (1, 3, 6, 50), NO_TILES),
    ],
)
@COMPILED
def test_tiles_multiply_from_so_many_rows_on_as_they_are_faster(
    tiles: Sequence[float], vectors: Sequence[float], expected: int, usable: Callable[..., None]
) -> None:
    usable(
        tiles=tiles, vectors=vectors, panels=(1, 9, 90, 900), onednn=(9, 9, 90, 900), plain=(9, 9, 90, 900)
    )
    choice = choose_unquantized_backend(LAYERS, torch.bfloat16, KERNELS)
    assert (choice.way, choice.tile_rows) == (MatmulBackend.tiles, expected)
    assert KERNELS is not None
    below = note("tiles_from_rows", rows=expected, vectors=KERNELS.vectors)
    in_order = note("order_of_tiles", by="by ", vectors=KERNELS.vectors)
    assert choice.fact == (below if expected < NO_TILES else in_order)


def test_where_nothing_is_kept_the_first_way_serves_so_that_answers_repeat(
    usable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(panels=None, onednn=None)
    monkeypatch.setattr(backend_selection, "load_layer_timings", lambda *_: None)
    kernels: Any = KERNELS or object()
    choice = choose_unquantized_backend(LAYERS, torch.bfloat16, kernels)
    assert choice.way == MatmulBackend.panels
    assert note("way_unmeasured") in choice.fact.values["reasons"]


@pytest.mark.parametrize("wanted", list(MatmulBackend))
def test_a_forced_way_that_is_missing_leads_to_the_next_and_says_so(
    wanted: MatmulBackend, usable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCED, wanted)
    kernels: Any = KERNELS or object()
    usable(tiles=None, panels=None, onednn=None)
    there = choose_unquantized_backend(LAYERS, torch.bfloat16, kernels)
    assert (there.way, there.note) == (wanted, None)
    assert note("way_forced", variable=FORCED) in there.fact.values["reasons"]
    usable()
    missing = choose_unquantized_backend(LAYERS, torch.bfloat16, kernels)
    assert missing.way == MatmulBackend.plain
    if wanted is not MatmulBackend.plain:
        absent = text_note(f"no {wanted} here")
        assert missing.note == note("forced_way_fails", variable=FORCED, way=wanted, problem=absent)
        assert missing.note in missing.fact.values["reasons"]


def test_a_word_that_is_no_way_is_rejected_before_the_model_is_loaded(
    opened: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCED, "fast")
    with raises(ConfigError, "unknown_choice", "RUNNER_PRODUCTS"):
        opened(model=LocalModelConfig(name="embedded", device="cpu"))
    monkeypatch.setenv(FORCED, "plain")
    monkeypatch.setenv("RUNNER_WITHOUT", "avx512,mmx")
    with raises(ConfigError, "unknown_choice", "RUNNER_WITHOUT"):
        opened(model=LocalModelConfig(name="embedded", device="cpu"))


PROMPTS = ("Add 2 and 3.", "Name a fruit.", "Say why the sky is blue, in one sentence.", "Tom has 3 apples.")


def answers(engine: LocalEngine) -> list[list[int]]:
    requests = [Request(at, text, (), 16, ignore_eos=True) for at, text in enumerate(PROMPTS)]
    found = {completion.id: completion.answer.token_ids for completion in complete_requests(engine, requests)}
    return [list(found[at]) for at in range(len(PROMPTS))]


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("wanted", list(MatmulBackend))
def test_each_forced_way_gives_its_tokens_and_stands_in_the_facts(
    wanted: MatmulBackend, dtype: Dtype, opened: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 all ways decide on the same tokens; in bfloat16, where rounding may decide, those
    that sum alike."""
    found = {}
    for way in (wanted, MatmulBackend.panels):
        monkeypatch.setenv(FORCED, way)
        engine = opened(model=LocalModelConfig(name="embedded", device="cpu", dtype=dtype))
        report = engine.load()
        found[way] = answers(engine)
        assert answers(engine) == found[way]
        notes = [one for one in engine.stats.notes if one.code == "forced_way_fails"]
        if way is wanted:
            said = report.facts["products"]
            assert "RUNNER_PRODUCTS" in said
            assert len(notes) == (f"RUNNER_PRODUCTS={way}" in said), "a way that is missing is also a note"
            assert (engine.fused is not None) is (KERNELS is not None and wanted in backend_selection.OWN)
    is_alike = dtype is Dtype.float32 or backend_selection.find_backend_problem(
        wanted, (), torch.bfloat16, KERNELS
    )
    assert not is_alike or found[wanted] == found[MatmulBackend.panels]


def test_products_are_measured_once_and_then_read(tmp_path: Path) -> None:
    class Kept:
        file, is_kept = tmp_path / "kernels-1.so", True

    kernels: Any = Kept()
    made: list[int] = []

    def product(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        made.append(len(weight))
        return lambda rows: nn.functional.linear(rows, weight)

    ways: MatmulBuilders = {"a": product, "b": product}
    first = load_layer_timings(ways, [(96, 64), (4096, 1024)], (4, 16), torch.float32, kernels)
    assert made == [96, 96, 512, 512], "of a large layer a part is measured"
    assert first is not None
    [file] = tmp_path.glob("products-*.json")
    kept = json.loads(file.read_text())["seconds"]
    name = next(name for name in kept if name.startswith("512 x 1024, float32"))
    assert first[4096, 1024]["a"][4] == pytest.approx(8 * kept[name]["a"]["4"]), "and its time counts for all"
    assert load_layer_timings(ways, [(96, 64), (4096, 1024)], (4, 16), torch.float32, kernels) == first
    assert len(made) == 4
    of_no_time = to_signed_json({"seconds": kept}).replace(str(kept[name]["a"]["4"]), "-1", 1)
    for damaged in ("{", "[]", '{"x": 1}', of_no_time, to_signed_json({"seconds": {"x": 1}})):
        file.write_text(damaged)
        made.clear()
        assert load_layer_timings(ways, [(96, 64)], (4, 16), torch.float32, kernels) is not None
        assert made, damaged
        assert json.loads(file.read_text())["seconds"][next(key for key in kept if key.startswith("96 x 64"))]
    Kept.is_kept = False
    assert load_layer_timings(ways, [(96, 64)], (4, 16), torch.float32, kernels) is None


def test_of_those_that_begin_together_one_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        file, is_kept = tmp_path / "kernels-1.so", True

    kernels: Any = Kept()
    measured: list[Shape] = []

    def slowly(ways: MatmulBuilders, shape: Shape, rows: Sequence[int], *_: Any) -> BackendTimings:
        measured.append(shape)
        threading.Event().wait(0.05)
        return {way: dict.fromkeys(rows, 1.0 + len(measured)) for way in ways}

    monkeypatch.setattr(keeping, "time_matmuls", slowly)
    found: list[Any] = []

    def begin() -> None:
        found.append(
            load_layer_timings(
                {"a": lambda weight: lambda rows: rows}, [(8, 8)], (4,), torch.float32, kernels
            )
        )

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measured) == 1
    assert found == [{(8, 8): {"a": {4: 2.0}}}] * 4


def test_a_way_that_is_far_slower_is_not_measured_with_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], list[tuple[str, int]]()

    def way(name: str, seconds: float) -> Callable[[torch.Tensor], Any]:
        def multiply(rows: torch.Tensor) -> torch.Tensor:
            calls.append((name, len(rows)))
            now[0] += seconds * len(rows)
            return rows

        return lambda _: multiply

    class Clock:
        thread_time = staticmethod(lambda: now[0])

    monkeypatch.setattr(interleaved_timing, "time", Clock)
    took = time_matmuls(
        {"quick": way("quick", 1), "slow": way("slow", 5)}, (8, 8), (4, 16), torch.float32, 1e9
    )
    assert took == {"quick": {4: 4.0, 16: 16.0}, "slow": {4: 20.0, 16: 80.0}}
    assert ("slow", 4) in calls
    assert ("slow", 16) not in calls
    calls.clear()
    time_matmuls({"quick": way("quick", 1)}, (8, 8), (4,), torch.float32, now[0] - 1)
    assert calls == [("quick", 4)], "after the time that this may take, each has one turn"


def test_what_passes_while_others_have_the_processor_does_not_count() -> None:
    threads: list[int] = []

    def waits(rows: torch.Tensor) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        time.sleep(0.1)
        return rows

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        took = time_matmuls({"waits": lambda _: waits}, (8, 8), (4,), torch.float32, math.inf)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert took["waits"][4] < 0.1
    assert set(threads) == {1}
