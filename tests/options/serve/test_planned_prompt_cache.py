"""What plans say of the memory for earlier prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.estimates.fit import MemoryFit, predict_memory_fit
from runner.options.serve.keys import ServeConfig
from runner.tasks.chat.keys import ChatConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import ConfigError
from runner_engine.checkpoints.prompt_cache_size import (
    COMBINED_SHARE,
    CONVERSATION_SHARE,
    PROMPT_SHARES,
    SEQUENCE_SHARE,
)
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

Make = Callable[..., RunnerConfig]
FREE_MIB = 10_000.0


def predict(make_config: Make, task: Any, limit_mib: int | None = None, **model: Any) -> MemoryFit:
    config = make_config(
        model=LocalModelConfig("embedded", device="cpu", **model),
        task=task,
        generation=GenerationConfig(prompt_cache_mib=limit_mib),
    )
    found = predict_memory_fit(resolve_job(config), {"main memory": FREE_MIB})
    assert found is not None
    return found


def test_plans_count_the_most_that_earlier_prompts_can_take(make_config: Make) -> None:
    serve = predict(make_config, ServeConfig(port=0))
    predicted = serve.predicted
    rest = FREE_MIB - predicted.resident_weight_mib - predicted.runtime_mib
    assert serve.max_prompt_cache_mib == pytest.approx(PROMPT_SHARES["cpu"] * rest)
    chat = predict(make_config, ChatConfig())
    assert chat.max_prompt_cache_mib == pytest.approx(CONVERSATION_SHARE * SEQUENCE_SHARE * rest)
    assert predict(make_config, Gsm8kConfig()).max_prompt_cache_mib == 0, "each question comes once"
    eager = predict(make_config, ServeConfig(port=0), attention=Attention.eager)
    assert eager.max_prompt_cache_mib == 0, "static batches store nothing"


@pytest.mark.parametrize("task", [ServeConfig(port=0), ChatConfig()], ids=["serve", "chat"])
def test_plans_count_no_more_than_the_key_and_the_memory_allow(make_config: Make, task: Any) -> None:
    found = [predict(make_config, task, limit) for limit in (0, 256, 10**6)]
    assert [one.max_prompt_cache_mib for one in found[:2]] == [0, 256]
    assert 256 < found[2].max_prompt_cache_mib <= COMBINED_SHARE * FREE_MIB
    sizes = {(one.predicted.total_mib, one.needed_mib) for one in found}
    assert len(sizes) == 1, "it gives way, so it decides nothing about what fits"


def test_the_limit_is_no_part_of_a_jobs_id(make_config: Make) -> None:
    keys = [
        dict(iterate_job_id_keys(make_config(generation=GenerationConfig(prompt_cache_mib=limit))))
        for limit in (None, 0, 256)
    ]
    assert keys[0] == keys[1] == keys[2]
    assert "generation.prompt_cache_mib" not in keys[0]


def test_a_negative_limit_is_rejected(make_config: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(prompt_cache_mib=-1)
    assert caught.value.key == "generation.prompt_cache_mib"


def test_a_model_elsewhere_has_no_such_limit(make_config: Make) -> None:
    from runner.options.remote.keys import ApiConfig

    generation = GenerationConfig(prompt_cache_mib=256)
    make_config(model=StubConfig(), generation=generation)
    with pytest.raises(ConfigError) as caught:
        make_config(model=ApiConfig(name="m", base_url="http://127.0.0.1:9/v1"), generation=generation)
    assert (caught.value.key, caught.value.code) == ("generation.prompt_cache_mib", "unsupported")
