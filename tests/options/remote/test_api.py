"""model=api with extensions=auto: the server's `owned_by` decides which parameters are sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api
from own_server import own_server

from runner.config.gsm8k import Gsm8kConfig
from runner.config.root import RunnerConfig
from runner.options.remote import api_kind as kind
from runner.options.remote.keys import ApiConfig, Extensions, HybridConfig, StudentConfig, TeacherConfig
from runner.options.serve.keys import ServeConfig
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
WARM = GenerationConfig(temperature=0.7, top_k=50, repetition_penalty=1.1, max_new_tokens=8)
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


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        yield api


def sent(record: Any) -> dict[str, Any]:
    return dict(json.loads(record.result.facts["sent"]))


@pytest.mark.slow
def test_presets_that_sample_work_with_our_own_server(runner: Callable[..., Any], served: str, tmp_path: Path) -> None:
    presets = "generation=chat,sampling,agents"
    model = ("model=api", "model.name=embedded", f"model.base_url={served}", "task.limit=1", "tracking=none")
    done = runner("-m", *model, presets, "generation.max_new_tokens=8")
    assert done.code == 0, done.err
    facts = [json.loads(path.read_text())["result"]["facts"] for path in tmp_path.glob("outputs/jobs/*/result.json")]
    bodies = [json.loads(fact["sent"])["extra_body"] for fact in facts]
    assert sorted(body["top_k"] for body in bodies) == [0, 50, 50]
    assert {body["repetition_penalty"] for body in bodies} == {1.1}


def test_the_penalty_has_an_effect_on_a_server(make_config: Make, served: str) -> None:
    punished = GenerationConfig(repetition_penalty=1.3, max_new_tokens=24)
    texts = []
    for model in (HERE, ApiConfig(name="embedded", base_url=served)):
        for generation in (punished, GenerationConfig(max_new_tokens=24)):
            config = make_config(model=model, generation=generation, task=GenerateConfig(prompt="Tom has 8 pens."))
            texts.append(run(config).result.text)
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("owner", ["vllm", "runner"])
def test_a_server_that_accepts_more_gets_more_parameters(make_config: Make, api: Api, owner: str) -> None:
    assert api.models is not None
    api.models[0]["owned_by"] = owner
    model = ApiConfig(name="tiny", base_url=api.url)
    record = run(make_config(model=model, generation=WARM, task=Gsm8kConfig(limit=1)))
    assert sent(record)["extra_body"] == {"top_k": 50, "repetition_penalty": 1.1}
    assert api.seen[0]["top_k"] == 50


@pytest.mark.parametrize("owner", [None, "openai", ["vllm"], "sombody"])
def test_any_other_server_gets_only_openais_parameters(make_config: Make, api: Api, owner: Any) -> None:
    assert api.models is not None
    api.models[0]["owned_by"] = owner
    words = r"generation.top_k=50 and generation.repetition_penalty=1.1: OpenAI's API has no field for it"
    with pytest.raises(ConfigError, match=words):
        run(make_config(model=ApiConfig(name="tiny", base_url=api.url), generation=WARM))
    teacher = TeacherConfig(name="tiny", base_url=api.url)
    hybrid = HybridConfig(student=StudentConfig(name="x", stub=True), teacher=teacher)
    with pytest.raises(ConfigError, match=r"model.teacher.extensions=vllm if the server accepts it"):
        run(make_config(model=hybrid, generation=WARM))
    assert api.seen == []
    explicit = ApiConfig(name="tiny", base_url=api.url, extensions=Extensions.vllm)
    assert run(make_config(model=explicit, generation=WARM, task=Gsm8kConfig(limit=1))).result.metrics["n"] == 1


def test_a_finished_job_is_found_without_its_server(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with Api() as api:
        assert api.models is not None
        api.models[0]["owned_by"] = "vllm"
        config = make_config(model=ApiConfig(name="tiny", base_url=api.url, retries=0), generation=WARM)
        first = run(config)
    monkeypatch.setattr(kind, "_reports", {})
    again = run(config)
    assert (again.job_id, again.from_ledger) == (first.job_id, True)


def test_another_server_at_the_same_address_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process that has asked the one before it, as a notebook does."""
    with Api() as first:
        assert first.models is not None
        first.models[0]["owned_by"] = "vllm"
        model = ApiConfig(name="tiny", base_url=first.url, retries=0)
        assert kind.with_extensions(model).extensions is Extensions.vllm
        known = dict(kind._reports)
    second = Api()
    second.port = first.port
    with second:
        kind._reports.update(known)
        assert kind.with_extensions(model).extensions is Extensions.vllm, "just now it was so"
        monkeypatch.setattr(kind, "FRESH_S", 0.0)
        assert kind.with_extensions(model).extensions is Extensions.openai
    assert kind.with_extensions(model).extensions is Extensions.openai, "nobody answers: as it was last"
