"""The table of sampling parameters: all code that accepts or uses them has the same ones, in the
same order."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raising import raises

import runner
from runner.library.arguments import Settings
from runner.tasks.chat.task import SETTINGS
from runner_base.errors import ConfigError
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import IGNORED_SETTINGS, GenerationConfig
from runner_engine.settings.sampling import (
    GREEDY,
    NEUTRAL,
    PARAMETERS,
    Sampling,
    SamplingArguments,
    SamplingKeys,
)

ROOT = Path(runner.__file__).parents[1]


def sampling_of(*numbers: float) -> Sampling:
    """Return a sampling with these parameters, in the order of the table; the missing ones are
    neutral."""
    return Sampling.from_parameter_values([*numbers, *list(NEUTRAL.values())[len(numbers) - 1 :]])


def test_all_who_read_the_table_have_its_parameters() -> None:
    names = list(PARAMETERS)
    assert [one.name for one in fields(SamplingKeys)] == names
    assert {*names} <= {one.name for one in fields(GenerationConfig)}
    assert [*SamplingArguments.__annotations__] == [*names, "seed"]
    assert {*names, "seed"} <= {*Settings.__annotations__}
    assert {*names} < {*SETTINGS}
    (order,) = re.findall(
        r"^enum \{ (.*?) \};", (ROOT / "runner_engine/kernels/sampling.h").read_text(), re.M
    )
    assert order.lower().split(", ") == names, "the order of the numbers that C reads"
    assert not {*names} & {*IGNORED_SETTINGS}


def test_numbers_of_a_sampling_are_read_back() -> None:
    given = sampling_of(0.5, 0.9, 7, 0.1, 1.2, -0.5, 2.0)
    assert (given.temperature, given.top_k, given.presence_penalty) == (0.5, 7, 2.0)
    assert Sampling.from_parameter_values(given.as_numbers) == given
    assert type(given.top_k) is int


def given(name: str, value: float) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_value_outside_its_range_is_refused_by_name(name: str) -> None:
    one = PARAMETERS[name]
    assert one.is_valid(one.neutral)
    for value in (one.low - 1, *([one.low] if one.excludes_low else [])):
        with raises(ConfigError, "bad_value", name):
            Sampling(**given(name, value))
    Sampling(**given(name, one.kind(one.high)))
    with raises(ConfigError, "bad_value", f"generation.{name}"):
        GenerationConfig(**given(name, one.high + 1))


@pytest.mark.parametrize("name", [*PARAMETERS, "seed"])
@pytest.mark.parametrize(
    "value", [10**400, -(10**400), math.nan, math.inf, -math.inf, True, "7", [7]], ids=repr
)
def test_what_is_no_number_in_any_range_is_refused_by_name(name: str, value: Any) -> None:
    with raises(ConfigError, "bad_value", name):
        Sampling(**given(name, value))
    if name in PARAMETERS:
        with raises(ConfigError, "bad_value", f"generation.{name}"):
            GenerationConfig(**given(name, value))


def test_only_whole_numbers_are_taken_where_tokens_are_counted() -> None:
    for name in ("top_k", "seed"):
        with raises(ConfigError, "bad_value", name):
            Sampling(**given(name, 2.5))
    assert Sampling(top_k=np.int64(7), temperature=np.float32(0.5)).top_k == 7  # type: ignore[arg-type]
    for name in ("n", "max_new_tokens"):
        for value in (0, 2.5, math.nan, math.inf, True):
            with raises(ConfigError, "bad_value", f"request.{name}"):
                Request(1, "x", **given(name, value))


def test_a_temperature_that_float32_cannot_divide_by_is_refused() -> None:
    for value in (5e-324, 1e-45, 1e-39):
        with raises(ConfigError, "bad_value", "temperature"):
            Sampling(temperature=value)
    assert Sampling(temperature=-0.0).effective == Sampling(temperature=0).effective


def test_greedy_rows_heed_penalties_alone() -> None:
    penalized = replace(sampling_of(0.0, 0.5, 3, 0.2, 1.1, 0.5, 0.25), seed=8)
    assert penalized.effective == sampling_of(0.0, 1.0, 0, 0.0, 1.1, 0.5, 0.25)
    assert sampling_of(0.0, 0.5, 3, 0.2, 1.0, 0.0, 0.0).effective == GREEDY
    with raises(ConfigError, "no_effect"):
        GenerationConfig(top_k=3, min_p=0.2)
    assert GenerationConfig(frequency_penalty=0.5).apply_model_defaults({"min_p": 0.3}).min_p == 0
    assert GenerationConfig(temperature=1.0).apply_model_defaults({"min_p": 0.3}).min_p == 0.3
