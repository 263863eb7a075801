"""Profiles: the groups and keys of each, what has precedence over it, and that its name makes no
other job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from raising import raises

from runner.config.choices import installed_choice_files
from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.profiles import PROFILES, TEACHER_ONLY, list_missing_gpu_warnings
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner_base.errors import ConfigError
from runner_engine.settings.model import LocalModelConfig, to_local_model_config


def composed(*overrides: str) -> RunnerConfig:
    return to_runner_config(*compose_job(overrides))


def test_each_profile_has_a_file() -> None:
    assert {file.stem for file in installed_choice_files("profile")} | {TEACHER_ONLY} == {*PROFILES}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["profile=low_memory"], ("nf4", "cpu", "auto")),
        (["profile=standard"], ("nf4", "auto", "auto")),
        (["profile=high_performance", "model=qwen25_7b_instruct"], ("none", "auto", "bfloat16")),
        (["profile=low_memory", "quantization=int8", "model.device=cuda"], ("int8", "cuda", "auto")),
        (
            ["quantization=int8", "profile=high_performance", "model.dtype=float16"],
            ("int8", "auto", "float16"),
        ),
        (["profile=standard", "model=stub"], ("nf4", "auto", "auto")),
    ],
)
def test_what_each_means_and_that_what_is_asked_for_wins(
    overrides: list[str], expected: tuple[str, ...]
) -> None:
    config = composed(*overrides)
    model = to_local_model_config(config.model)
    assert (config.quantization.name, model.device, model.dtype.value) == expected
    assert f"profile={config.profile}" in overrides


def test_its_name_makes_no_other_job() -> None:
    by_profile, by_hand = (composed("profile=low_memory"), composed("quantization=nf4", "model.device=cpu"))
    assert dict(iterate_job_id_keys(by_profile)) == dict(iterate_job_id_keys(by_hand))
    assert by_profile.profile == "low_memory"


def test_a_choice_of_model_that_it_cannot_reach_is_refused(make_config: Callable[..., Any]) -> None:
    with raises(ConfigError, "unsupported", "profile"):
        make_config(profile="low_memory", model=LocalModelConfig("./x"))


def test_it_is_said_where_a_gpu_is_meant_and_none_is_there() -> None:
    assert list_missing_gpu_warnings("standard", "cpu")[0].startswith("profile=standard expects a GPU")
    assert (
        list_missing_gpu_warnings("standard", "cuda")
        == list_missing_gpu_warnings("low_memory", "cpu")
        == list_missing_gpu_warnings("none", "cpu")
        == []
    )
