"""model=api with our own server; needs both options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_server import own_server

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner.options.serve.keys import ServeConfig
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner_base.dtypes import Dtype
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
HERE = LocalModelConfig(name="embedded", dtype=Dtype.float32, device="cpu")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the embedded model; return the address."""
    from runner.config.root import NoTrackingConfig
    from runner_engine.quantization.base import QuantizationConfig
    from runner_engine.settings.lora import LoraConfig
    from runner_engine.settings.rope import RopeConfig

    config = RunnerConfig(
        model=HERE,
        quantization=QuantizationConfig(),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=GenerationConfig(max_new_tokens=24),
        task=ServeConfig(),
        tracking=NoTrackingConfig(),
        output_dir=str(tmp_path_factory.mktemp("served")),
    )
    with own_server(config) as url:
        yield url


def sent(record: Any) -> dict[str, Any]:
    return dict(json.loads(record.result.facts["sent"]))


@pytest.mark.slow
def test_presets_that_sample_work_with_our_own_server(
    runner: Callable[..., Any], served: str, tmp_path: Path
) -> None:
    presets = "generation=chat,sampling,agents"
    model = ("model=api", "model.name=embedded", f"model.base_url={served}", "task.limit=1", "tracking=none")
    done = runner("-m", *model, presets, "generation.max_new_tokens=8")
    assert done.code == 0, done.err
    facts = [
        json.loads(path.read_text())["result"]["facts"]
        for path in tmp_path.glob("outputs/jobs/*/result.json")
    ]
    bodies = [json.loads(fact["sent"])["extra_body"] for fact in facts]
    assert sorted(body["top_k"] for body in bodies) == [0, 50, 50]
    assert {body["repetition_penalty"] for body in bodies} == {1.1}


def test_the_penalty_has_an_effect_on_a_server(make_config: Make, served: str) -> None:
    punished = GenerationConfig(repetition_penalty=1.3, max_new_tokens=24)
    texts = []
    for model in (HERE, ApiConfig(name="embedded", base_url=served)):
        for generation in (punished, GenerationConfig(max_new_tokens=24)):
            config = make_config(
                model=model, generation=generation, task=GenerateConfig(prompt="Tom has 8 pens.")
            )
            texts.append(run(config).result.text)
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]
