"""Every kind of model has a complete description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from described_kinds import check_description

from runner.config.model import StubConfig
from runner.config.models import MODELS
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind, ResourceNeed, get_model_kind
from runner_base.plugins import find_builtin_options
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.model import LocalModelConfig, to_local_model_config

Make = Callable[..., RunnerConfig]


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(find_builtin_options("model"))))
def test_every_model_has_a_complete_description(make_config: Make, name: str, tmp_path: Path) -> None:
    """Those of options are checked beside the option."""
    config = make_config(model=MODELS[name](**({} if name == "stub" else {"name": str(MODEL_DIR)})))
    check_description(config, tmp_path)


def test_a_kind_without_a_fingerprint_cannot_be_instantiated() -> None:
    class Incomplete(ModelKind):
        pass

    with pytest.raises(TypeError, match=r"abstract methods?.*capabilities.*fingerprint.*open_engine"):
        Incomplete()  # type: ignore[abstract]


@pytest.mark.thorough
def test_the_stub_has_no_keys_of_a_local_model(runner: Callable[..., object]) -> None:
    assert [item.name for item in fields(StubConfig)] == ["delay_s", "thinking_words", "answer"]
    assert to_local_model_config(StubConfig()) == LocalModelConfig(name="stub"), (
        "a request for them still gets the defaults"
    )
    done = runner("model=stub", "model.device=cpu")
    assert done.code == 2  # type: ignore[attr-defined]
    assert "model.device: no key 'model.device'" in done.err  # type: ignore[attr-defined]


def test_what_the_stub_needs(make_config: Make) -> None:
    config = make_config(model=StubConfig())
    assert get_model_kind(config.model).predict_resources(resolve_job(config)) == ResourceNeed(0.0, 1)
