"""Every kind of model describes itself, whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

from runner.checkpoints.resolve import resolve
from runner.config.model import MODELS, LocalModelConfig, StubConfig, StudentConfig, TeacherConfig, local_model
from runner.config.root import RunnerConfig
from runner.engines.base import Capability
from runner.engines.kinds import ModelKind, Need, kind_of

Make = Callable[..., RunnerConfig]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_has_a_whole_description(make_config: Make, name: str, tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "runner" / "embedded" / "model"
    with Api() as api:
        teacher, student = TeacherConfig(name="tiny", base_url=api.url), StudentConfig(name="x", stub=True)
        keys: dict[str, Any] = {"api": {"name": "tiny", "base_url": api.url}}
        keys["hybrid"] = {"student": student, "teacher": teacher}
        config = make_config(model=MODELS[name](**keys.get(name, {"name": str(folder)})))
        describes_itself(config, tmp_path)


def describes_itself(config: RunnerConfig, tmp_path: Path) -> None:
    kind, resolved = kind_of(config.model), resolve(config)
    assert isinstance(kind, ModelKind)
    assert kind.evidence(config, resolved, tmp_path / "hashes.json")["model"]
    assert kind.check(config, resolved) == []
    assert kind.capabilities(config) <= frozenset(Capability)
    predicted = kind.predict(config, resolved, (1, 8, 8))
    assert predicted is not None
    assert bool(predicted.weight_mib) == bool(kind.base_key(config)) == kind.HAS_WEIGHTS
    assert (kind.need(config, resolved).mib > 0) == kind.HAS_WEIGHTS


def test_a_kind_that_forgets_what_its_identity_rests_on_cannot_be_made() -> None:
    class Forgetful(ModelKind):
        pass

    with pytest.raises(TypeError, match=r"abstract methods?.*capabilities.*evidence.*open_engine"):
        Forgetful()  # type: ignore[abstract]


def test_the_stub_has_no_keys_of_a_local_model(runner: Callable[..., object]) -> None:
    assert [item.name for item in fields(StubConfig)] == ["name", "delay_s"]
    assert local_model(StubConfig()) == LocalModelConfig(name="stub"), "who asks all the same gets the defaults"
    done = runner("model=stub", "model.device=cpu")
    assert done.code == 2  # type: ignore[attr-defined]
    assert "model.device: no key 'model.device'" in done.err  # type: ignore[attr-defined]


def test_what_the_stub_needs(make_config: Make) -> None:
    config = make_config(model=StubConfig())
    assert kind_of(config.model).need(config, resolve(config)) == Need(0.0, 1)
