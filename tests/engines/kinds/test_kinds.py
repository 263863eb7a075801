"""Every kind of model has a complete description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api
from stages import split_into
from vllm_standin import VllmStandIn

from runner.config.model import StubConfig
from runner.config.models import MODELS
from runner.config.resolved import resolve
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind, Need, kind_of
from runner.options.parts.model_keys import PartsModelConfig
from runner.options.remote.keys import StudentConfig, TeacherConfig
from runner.options.remote.vllm.keys import VllmConfig
from runner_engine.embedded import MODEL_DIR
from runner_engine.sessions.base import Capability
from runner_engine.settings.model import LocalModelConfig, local_model

Make = Callable[..., RunnerConfig]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_has_a_complete_description(make_config: Make, name: str, tmp_path: Path) -> None:
    folder = split_into(MODEL_DIR, tmp_path / "parts", 2) if name == "parts" else MODEL_DIR
    python = str(VllmStandIn(tmp_path / "env").python) if name == "vllm" else ""
    with Api() as api:
        teacher, student = TeacherConfig(name="tiny", base_url=api.url), StudentConfig(name="x", stub=True)
        keys: dict[str, Any] = {"api": {"name": "tiny", "base_url": api.url}}
        keys |= {"hybrid": {"student": student, "teacher": teacher}, "stub": {}}
        keys |= {"vllm": {"name": str(folder), "python": python}}
        config = make_config(model=MODELS[name](**keys.get(name, {"name": str(folder)})))
        check_description(config, tmp_path)


def check_description(config: RunnerConfig, tmp_path: Path) -> None:
    kind, resolved = kind_of(config.model), resolve(config)
    assert isinstance(kind, ModelKind)
    assert kind.fingerprint(resolved, tmp_path / "hashes.json")["model"]
    notes = ["2 processes of a pipeline share"] if isinstance(config.model, PartsModelConfig) else []
    assert [note[:31] for note in kind.check(resolved)] == notes
    assert kind.capabilities(config) <= frozenset(Capability)
    predicted = kind.predict(resolved, (1, 8, 8))
    assert predicted is not None
    assert bool(predicted.weight_mib) == kind.HAS_WEIGHTS
    starts_processes = isinstance(config.model, PartsModelConfig)  # each job starts its own
    is_served = isinstance(config.model, VllmConfig)  # here, by a process that several jobs share
    assert bool(kind.base_key(config)) == (is_served or (kind.HAS_WEIGHTS and not starts_processes))
    assert kind.run_as_torchrun_worker(config) is None
    assert (kind.need(resolved).mib > 0) == (is_served or kind.HAS_WEIGHTS)


def test_a_kind_without_a_fingerprint_cannot_be_instantiated() -> None:
    class Incomplete(ModelKind):
        pass

    with pytest.raises(TypeError, match=r"abstract methods?.*capabilities.*fingerprint.*open_engine"):
        Incomplete()  # type: ignore[abstract]


def test_the_stub_has_no_keys_of_a_local_model(runner: Callable[..., object]) -> None:
    assert [item.name for item in fields(StubConfig)] == ["delay_s", "thinking_words", "answer"]
    assert local_model(StubConfig()) == LocalModelConfig(name="stub"), "a request for them still gets the defaults"
    done = runner("model=stub", "model.device=cpu")
    assert done.code == 2  # type: ignore[attr-defined]
    assert "model.device: no key 'model.device'" in done.err  # type: ignore[attr-defined]


def test_a_model_in_parts_has_some_keys_of_a_local_model() -> None:
    parts = PartsModelConfig("x", device="cpu", threads=2, chat_template_kwargs={"enable_thinking": False})
    keys: dict[str, Any] = {"device": "cpu", "threads": 2, "chat_template_kwargs": {"enable_thinking": False}}
    assert local_model(parts) == LocalModelConfig(name="x", **keys)


def test_what_the_stub_needs(make_config: Make) -> None:
    config = make_config(model=StubConfig())
    assert kind_of(config.model).need(resolve(config)) == Need(0.0, 1)
