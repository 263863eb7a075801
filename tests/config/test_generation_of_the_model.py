"""generation=model: the settings of the model's own files, as a job has them, plans them and names
them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.grid.plan import plan_job
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.generation import GenerationConfig, ModelGeneration
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
SAMPLES = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}


@pytest.fixture
def published(tiny_llama: Path, tmp_path: Path) -> Callable[..., LocalModelConfig]:
    """Make a model whose generation_config.json says this."""

    def make(**own: object) -> LocalModelConfig:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_llama, folder)
        (folder / "generation_config.json").write_text(json.dumps(own))
        return LocalModelConfig(name=str(folder), device="cpu")

    return make


def test_each_value_has_its_source(make_config: Make, published: Callable[..., LocalModelConfig]) -> None:
    config = make_config(
        model=published(**SAMPLES), generation=ModelGeneration(top_k=7), task=Gsm8kConfig(limit=2)
    )
    resolved = resolve_job(config)
    generation = resolved.config.generation
    assert (generation.temperature, generation.top_p, generation.top_k, generation.max_new_tokens) == (
        0.6,
        0.95,
        7,
        512,
    )
    assert resolved.notes == (
        "generation=model: temperature 0.6, top_p 0.95, from the model's generation_config.json; top_k 7, as given; "
        f"max_new_tokens 512, {render_engine_note(note('usual_length'))}",
    )
    assert generation.describe_sampling({}) == (
        "temperature 0.6, top_p 0.95, from the model's generation_config.json; top_k 7, as given"
    )


def test_a_publisher_who_does_not_sample_is_greedy(
    make_config: Make, published: Callable[..., LocalModelConfig]
) -> None:
    model = published(temperature=0.9, repetition_penalty=1.1, max_new_tokens=99)
    resolved = resolve_job(make_config(model=model, generation=ModelGeneration()))
    assert resolved.config.generation.temperature == 0
    assert resolved.notes == (
        "generation=model: greedy, repetition_penalty 1.1, max_new_tokens 99, from the model's generation_config.json",
    )


def test_jobs_differ_where_the_files_differ(
    make_config: Make, published: Callable[..., LocalModelConfig]
) -> None:
    def job_id(**own: object) -> str:
        config = make_config(model=published(**own), generation=ModelGeneration(), task=Gsm8kConfig(limit=2))
        return plan_job([], config).job_id

    same = job_id(**SAMPLES)
    assert same == job_id(**SAMPLES)
    assert same != job_id(**SAMPLES | {"temperature": 0.7})


def test_one_command_compares_greedy_with_the_publisher(
    make_config: Make, published: Callable[..., LocalModelConfig]
) -> None:
    model, task = published(**SAMPLES), Gsm8kConfig(limit=2, samples=4)
    greedy = plan_job([], make_config(model=model, generation=GenerationConfig(), task=task))
    drawn = plan_job([], make_config(model=model, generation=ModelGeneration(), task=task))
    once = plan_job([], make_config(model=model, generation=GenerationConfig(), task=Gsm8kConfig(limit=2)))
    assert greedy.config is not None
    assert drawn.config is not None
    assert (greedy.config.task.samples, drawn.config.task.samples) == (1, 4)  # type: ignore[attr-defined]
    assert greedy.job_id == once.job_id  # so that its answers are there already
    assert (
        "task.samples=4: greedy decoding always gives the same answer, so each question is asked once"
        in greedy.notes
    )
    assert not any("task.samples" in note for note in drawn.notes if isinstance(note, str))


def test_a_model_that_says_nothing_is_refused_before_the_load(
    make_config: Make, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "silent"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = make_config(model=LocalModelConfig(name=str(folder)), generation=ModelGeneration())
    planned = plan_job([], config)
    assert planned.exit_code == 2
    assert planned.error is not None
    assert (planned.error.code, planned.error.key) == ("not_found", "generation")


def test_a_model_without_files_here_is_refused(make_config: Make) -> None:
    from runner.config.models import MODELS

    with raises(ConfigError, "unsupported", "generation"):
        resolve_job(make_config(model=MODELS["stub"](), generation=ModelGeneration()))


def test_null_is_for_the_model_alone() -> None:
    with raises(ConfigError, "bad_value", "generation.temperature"):
        GenerationConfig(temperature=None)
