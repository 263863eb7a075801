"""Windows that the model has hidden columns: refused by the plan as by the run, and predicted at their
length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.estimates.fit import predict_memory_fit
from runner.run import check_job_before_model_loading, read_inputs_and_identify_job
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.checkpoints.positions import compute_max_positions
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig, RopeLinearConfig, RopeYarnConfig

WORDS = "the house by the river is green and old "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "long.txt"
    file.write_text(WORDS * 400)
    return file


def planned(make_config: Callable[..., Any], model: LocalModelConfig, task: Any, **groups: Any) -> Any:
    resolved = resolve_job(make_config(model=model, task=task, **groups))
    inputs, _ = read_inputs_and_identify_job(resolved)
    return resolved, check_job_before_model_loading(resolved, inputs)


def test_a_plan_refuses_a_window_in_the_words_of_the_run(
    make_config: Callable[..., Any], tiny_model: LocalModelConfig, text: Path
) -> None:
    task = LikelihoodConfig(data=str(text), window=700)
    with raises(ConfigError, "too_large", "task.window"):
        planned(make_config, tiny_model, task)
    planned(make_config, tiny_model, LikelihoodConfig(data=str(text), window=512))
    planned(make_config, tiny_model, task, rope=RopeLinearConfig(factor=2))


def test_texts_that_are_shorter_than_the_room_are_not_refused(
    make_config: Callable[..., Any], tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text(WORDS * 12)  # fewer bytes than positions
    planned(make_config, tiny_model, LikelihoodConfig(data=str(short), window=5000))
    # answers, which no window cuts
    planned(make_config, tiny_model, LikelihoodConfig(window=5000, limit=3))


def test_without_a_tokenizer_to_read_the_plan_says_that_only_the_load_can_tell(
    make_config: Callable[..., Any], saved_family: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in saved_family().iterdir():
        if file.name != "tokenizer.json":
            (folder / file.name).symlink_to(file)
    task = LikelihoodConfig(data=str(text), window=700)
    _, notes = planned(make_config, LocalModelConfig(name=str(folder), device="cpu"), task)
    assert note("lengths_unknown", "warning", key="task.window=700", room=256) in notes


def test_memory_is_predicted_for_the_window(
    make_config: Callable[..., Any], tiny_model: LocalModelConfig, text: Path
) -> None:
    found = {}
    for window in (64, 512, 4096):
        config = make_config(model=tiny_model, task=LikelihoodConfig(data=str(text), window=window))
        read_inputs_and_identify_job(resolved := resolve_job(config))
        predicted = predict_memory_fit(resolved, {"cpu": 10_000.0})
        assert predicted is not None
        found[window] = predicted.predicted.kv_cache_mib
    assert found[64] == found[512], "several short rows read as many tokens together"
    assert found[4096] == pytest.approx(4 * found[512], rel=0.05)


@pytest.mark.parametrize(
    ("settings", "rope", "positions"),
    [
        ({"max_position_embeddings": 8192}, RopeConfig(), 8192),
        ({"n_positions": 1024}, RopeConfig(), 1024),
        ({}, RopeConfig(), float("inf")),
        ({"max_position_embeddings": -1}, RopeConfig(), float("inf")),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}}, RopeConfig(), 4096),
        ({"max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192}}, RopeConfig(), 131072),
        ({"max_position_embeddings": 1024}, RopeLinearConfig(factor=3), 3072),
        ({"max_position_embeddings": 1024}, RopeYarnConfig(factor=4, original_max_position_embeddings=512), 1024),
        ({"max_position_embeddings": 1024}, RopeYarnConfig(factor=4), 4096),
    ],
)  # fmt: skip
def test_positions_follow_from_settings_and_a_scaling(
    settings: dict[str, Any], rope: RopeConfig, positions: float
) -> None:
    assert compute_max_positions(settings, rope) == positions


def test_a_plan_refuses_cells_of_a_sweep_that_the_run_would(
    make_config: Callable[..., Any], tiny_model: LocalModelConfig
) -> None:
    with raises(ConfigError, "too_large") as refused:
        planned(make_config, tiny_model, SweepConfig(prompt_tokens=[8, 500], new_tokens=[64]))
    assert "564 tokens" in refused.value.reason
    planned(make_config, tiny_model, SweepConfig(prompt_tokens=[8, 400], new_tokens=[64]))


@pytest.mark.parametrize(
    "lengths",
    [{"context_lengths": [64, 600]}, {"prompt_tokens": 568}],
    ids=["context_lengths", "prompt_tokens"],
)
def test_a_plan_refuses_lengths_of_a_memory_job_that_the_run_would(
    make_config: Callable[..., Any], tiny_model: LocalModelConfig, lengths: dict[str, Any]
) -> None:
    with raises(ConfigError, "too_large") as refused:
        planned(make_config, tiny_model, MemoryConfig(new_tokens=32, **lengths))
    assert "600 tokens" in refused.value.reason
    planned(make_config, tiny_model, MemoryConfig(new_tokens=32, context_lengths=[64, 512]))
