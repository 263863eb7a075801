"""Profiles where a server answers."""

from __future__ import annotations

import pytest

from runner.config.choices import installed_choice_files
from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.profiles import TEACHER_ONLY
from runner.config.root import RunnerConfig
from runner.options.remote.keys import HybridConfig
from runner_base.errors import ConfigError
from runner_engine.settings.model import to_local_model_config

SERVER = ("model.base_url=http://127.0.0.1:1/v1", "model.name=x")

TEACHER = ("model=hybrid", "model.teacher.base_url=http://127.0.0.1:1/v1", "model.teacher.name=x")


def composed(*overrides: str) -> RunnerConfig:
    return to_runner_config(*compose_job(overrides))


@pytest.mark.thorough
def test_teacher_only_has_no_model_here() -> None:
    assert composed("profile=teacher_only", *SERVER).model.module == "runner.options.remote.api_kind"
    with pytest.raises(ConfigError, match="profile=teacher_only: this profile runs no model on this machine"):
        composed("profile=teacher_only", "model=embedded")


def test_a_profile_for_weights_is_blamed_itself_where_a_server_answers() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^profile=low_memory: this profile needs weights on this machine .quantization=nf4.,",
    ):
        composed("profile=low_memory", "model=api", *SERVER)
    assert (
        composed("profile=low_memory", "model=api", "quantization=none", *SERVER).quantization.name == "none"
    )


def test_a_profile_sets_the_keys_of_the_student() -> None:
    config = composed("profile=low_memory", *TEACHER)
    assert isinstance(config.model, HybridConfig)
    model = to_local_model_config(config.model)
    assert (config.quantization.name, model.device, model.dtype.value) == ("nf4", "cpu", "auto")
    assert config.profile == "low_memory"


def test_the_profile_has_a_file_beside_this_option() -> None:
    assert TEACHER_ONLY in {file.stem for file in installed_choice_files("profile")}
