"""model=api with extensions=auto: the server's `owned_by` decides which parameters are sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_standin import Api
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote import api_kind as kind
from runner.options.remote.keys import ApiConfig, ApiExtensions, HybridConfig, StudentConfig, TeacherConfig
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
WARM = GenerationConfig(temperature=0.7, top_k=50, repetition_penalty=1.1, max_new_tokens=8)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        yield api


def sent(record: Any) -> dict[str, Any]:
    return dict(json.loads(record.result.facts["sent"]))


@pytest.mark.thorough
@pytest.mark.parametrize("owner", ["vllm", "runner"])
def test_a_server_that_accepts_more_gets_more_parameters(make_config: Make, api: Api, owner: str) -> None:
    assert api.models is not None
    api.models[0]["owned_by"] = owner
    model = ApiConfig(name="tiny", base_url=api.url)
    record = run(make_config(model=model, generation=WARM, task=Gsm8kConfig(limit=1)))
    assert sent(record)["extra_body"] == {"top_k": 50, "repetition_penalty": 1.1}
    assert api.seen[0]["top_k"] == 50


@pytest.mark.sampled(1)
@pytest.mark.parametrize("owner", [None, "openai", ["vllm"], "sombody"])
def test_any_other_server_gets_only_openais_parameters(make_config: Make, api: Api, owner: Any) -> None:
    assert api.models is not None
    api.models[0]["owned_by"] = owner
    key = "generation.top_k=50 and generation.repetition_penalty"
    with raises(ConfigError, "unsupported", key) as caught:
        run(make_config(model=ApiConfig(name="tiny", base_url=api.url), generation=WARM))
    assert caught.value.value == 1.1
    teacher = TeacherConfig(name="tiny", base_url=api.url)
    hybrid = HybridConfig(student=StudentConfig(name="x", stub=True), teacher=teacher)
    with raises(ConfigError, "unsupported", key):
        run(make_config(model=hybrid, generation=WARM))
    assert api.seen == []
    explicit = ApiConfig(name="tiny", base_url=api.url, extensions=ApiExtensions.vllm)
    assert (
        run(make_config(model=explicit, generation=WARM, task=Gsm8kConfig(limit=1))).result.metrics["n"] == 1
    )


def test_a_finished_job_is_found_without_its_server(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        assert kind.resolve_api_extensions_if_auto(model).extensions is ApiExtensions.vllm
        known = dict(kind._reports)
    second = Api()
    second.port = first.port
    with second:
        kind._reports.update(known)
        assert kind.resolve_api_extensions_if_auto(model).extensions is ApiExtensions.vllm, (
            "just now it was so"
        )
        monkeypatch.setattr(kind, "FRESH_S", 0.0)
        assert kind.resolve_api_extensions_if_auto(model).extensions is ApiExtensions.openai
    assert kind.resolve_api_extensions_if_auto(model).extensions is ApiExtensions.openai, (
        "nobody answers: as it was last"
    )
