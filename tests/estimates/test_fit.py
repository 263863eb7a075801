"""Whether a job fits, and that the named change is the cheapest one that makes it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config.resolved import resolve_job
from runner.engines.kinds import get_model_kind
from runner.estimates.fit import (
    PROCESS_MIB,
    get_free_mib_by_device,
    limit_batch_and_answer_length,
    predict_memory_fit,
)
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import machine
from runner_base.dtypes import Dtype
from runner_engine.checkpoints import random_weights
from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., Any]


@pytest.fixture
def seven_billion(make_config: Make) -> Any:
    """A job whose model is known by its shape alone."""
    model = LocalModelConfig("x", shape="qwen25_7b_instruct", random_weights=True, device="cpu")
    generation = GenerationConfig(max_new_tokens=64, batch_size=64)
    return make_config(model=model, generation=generation, task=Gsm8kConfig(limit=200))


def test_a_job_that_fits_names_no_change(seven_billion: Any) -> None:
    result = predict_memory_fit(resolve_job(seven_billion), {"main memory": 100_000.0})
    assert result is not None
    assert result.is_possible
    assert (result.verdict, result.rows) == ("yes", 64)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("room_mib", [15_500.0, 11_000.0, 7_000.0])
def test_the_named_change_fits_and_half_of_it_would_not(seven_billion: Any, room_mib: float) -> None:
    free_mib = {"main memory": room_mib}
    result = predict_memory_fit(resolve_job(seven_billion), free_mib)
    assert result is not None
    assert not result.is_possible
    changes = dict(
        word.split("=") for word in result.would_fit.removeprefix("fits with ").split(" (")[0].split()
    )
    rows = int(changes.get("generation.batch_size", 64))

    def tried(quantization: str, rows: int) -> bool:
        generation = replace(seven_billion.generation, batch_size=rows)
        changed = replace(seven_billion, quantization=CHOICES[quantization](), generation=generation)
        again = predict_memory_fit(resolve_job(changed), free_mib, should_find_fix=False)
        return again is not None and again.is_possible

    quantization = changes.get("quantization", "none")
    assert tried(quantization, rows)
    assert rows == 64 or not tried(quantization, 2 * rows)
    assert {15_500.0: "none", 11_000.0: "int8", 7_000.0: "nf4"}[room_mib] == quantization


def test_if_nothing_helps_no_change_is_named(seven_billion: Any) -> None:
    result = predict_memory_fit(resolve_job(seven_billion), {"main memory": 1000.0})
    assert result is not None
    assert (result.verdict, result.would_fit) == ("no", "")


def test_the_engine_chooses_fewer_rows_to_fit(seven_billion: Any) -> None:
    free = replace(
        seven_billion, generation=replace(seven_billion.generation, batch_size=None), task=seven_billion.task
    )
    free.task.limit = 128
    many = predict_memory_fit(resolve_job(free), {"main memory": 100_000.0})
    few = predict_memory_fit(resolve_job(free), {"main memory": 15_500.0})
    assert many is not None
    assert few is not None
    assert many.rows == 128
    wide = replace(free, model=replace(free.model, dtype=Dtype.float32))
    in_float32 = predict_memory_fit(resolve_job(wide), {"main memory": 100_000.0})
    assert in_float32 is not None
    assert in_float32.rows == 64
    assert few.is_possible
    assert few.rows < 64


def test_a_cpu_has_the_free_memory_without_that_of_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 4000.0)
    assert get_free_mib_by_device("cpu") == {"main memory": 4000.0 - PROCESS_MIB}
    assert get_free_mib_by_device("cpu", {"cpu": "1GiB"}) == {"main memory": 1024.0}


@pytest.fixture
def embedded(make_config: Make) -> Any:
    return make_config(model=LocalModelConfig("embedded", device="cpu"), task=Gsm8kConfig(limit=5))


def test_rows_and_answers_are_no_more_than_can_be(embedded: Any) -> None:
    usual, free_mib = (
        predict_memory_fit(resolve_job(embedded), {"main memory": 2000.0}),
        {"main memory": 2000.0},
    )
    huge = replace(
        embedded, generation=replace(embedded.generation, batch_size=100_000, max_new_tokens=100_000)
    )
    result = predict_memory_fit(resolve_job(huge), free_mib)
    assert usual is not None
    assert result is not None
    assert (result.rows, result.is_possible) == (5, True)
    room = resolve_job(huge).model.files.text_settings["max_position_embeddings"]
    assert limit_batch_and_answer_length(resolve_job(huge)).config.generation.max_new_tokens < room
    (note,) = [
        note for note in get_model_kind(huge.model).check_job(resolve_job(huge)) if "max_new_tokens" in note
    ]
    assert note.startswith(f"generation.max_new_tokens=100000: the context length of {room:,} tokens ")


def test_texts_that_are_scored_are_in_memory_for_one_pass_only(make_config: Make) -> None:
    model = LocalModelConfig("x", shape="qwen25_15b_instruct", random_weights=True, device="cpu")
    scored = predict_memory_fit(
        resolve_job(make_config(model=model, task=LikelihoodConfig(limit=200))), {"main memory": 20_000.0}
    )
    assert scored is not None
    assert scored.predicted.kv_cache_mib < 40, (
        "of 1,026 tokens, where 128 rows of 513 were predicted: 3,600 MiB"
    )


@pytest.mark.thorough
def test_a_tokenizer_counts_in_the_memory_of_the_load(make_config: Make, tmp_path: Path) -> None:
    """Measured with the vocabularies of 49,152 and 130,000: 32 and 151 MiB beyond that of small
    ones."""
    shape = make_config(model=LocalModelConfig("x", shape="smollm2_135m", random_weights=True, device="cpu"))
    random_weights.write_random_checkpoint(resolve_job(shape).model.files.settings, tmp_path / "model")
    files = make_config(model=LocalModelConfig(str(tmp_path / "model"), device="cpu"))
    noise, real = (predict_memory_fit(resolve_job(it), {"main memory": 20_000.0}) for it in (shape, files))
    assert noise is not None
    assert real is not None
    assert real.predicted.load_mib - noise.predicted.load_mib == pytest.approx(32, abs=0.5)
