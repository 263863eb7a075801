"""Patterns and ranks of an adapter's settings: what would take years or all memory is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from raising import raises

from runner_base.errors import ConfigError
from runner_engine.checkpoints.adapter_patterns import check_adapter_patterns, check_adapter_ranks

NAMES = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(30)]
SLOW = r"(\w+\w*)+\.(\w+\w*)+\.(\w+\w*)+!"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": SLOW},
        {"exclude_modules": SLOW},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {"q_proj": 2, SLOW: 4}},
        {"layers_pattern": [SLOW]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_pattern_that_backtracks_is_refused_in_seconds(settings: dict[str, Any]) -> None:
    started = time.monotonic()
    with raises(ConfigError, "refused", "lora"):
        check_adapter_patterns(settings, NAMES, "lora")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r"model\.layers\.\d+\..*(q_proj|v_proj)"},
        {"target_modules": r"(\w+\.)+q_proj"},  # a repeat in a repeat that ends soon
        {"target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)"},
        {"target_modules": "(("},
        {"target_modules": ["q_proj"], "rank_pattern": {r"^.*\.0\..*": 4}},
    ],
    ids=repr,
)
def test_patterns_that_people_use_pass(settings: dict[str, Any]) -> None:
    check_adapter_patterns(settings, NAMES, "lora")


@pytest.mark.parametrize("rank", [10**9, 0, -1, "many", 1.5, None, [1]])
@pytest.mark.parametrize("by_pattern", [False, True])
def test_a_rank_that_no_matrix_has_is_refused(rank: Any, by_pattern: bool) -> None:
    settings = {"rank_pattern": {"q_proj": rank}} if by_pattern else {"r": rank}
    with raises(ConfigError, "damaged", "lora"):
        check_adapter_ranks(settings, [16], "lora")


def test_large_ranks_that_the_matrices_have_pass() -> None:
    check_adapter_ranks({"r": 4096, "rank_pattern": {"q_proj": 2048}}, [16, 4096], "lora")


def test_more_names_than_any_model_has_are_refused() -> None:
    with raises(ConfigError, "too_large", "lora") as raised:
        check_adapter_patterns({"target_modules": ["m"] * 1_000_000}, NAMES, "lora")
    assert raised.value.reason.startswith("target_modules ")


def test_a_decomposition_without_end_is_refused() -> None:
    check_adapter_patterns({"init_lora_weights": "pissa_niter_16"}, NAMES, "lora")
    with raises(ConfigError, "too_large", "lora") as raised:
        check_adapter_patterns({"init_lora_weights": "pissa_niter_1000000000"}, NAMES, "lora")
    assert raised.value.reason.startswith("init_lora_weights=")
