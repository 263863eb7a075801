"""The second rows of task.check_invariance=auto are in an estimate only where the engine may ask
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.config.measures import SweepConfig
from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.estimates.amounts import can_decode_batch_invariantly, estimate_requested_completions
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_engine.plan.footprint import predict_footprint
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalConfig, LocalModelConfig

LOCAL = LocalModelConfig("embedded", device="cpu")


def completions(config: Any, read: int | None = None) -> int:
    (amount,) = estimate_requested_completions(config, read)
    return amount.completions


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8_dynamic"])
def test_rows_on_a_cpu_may_be_independent(make_config: Callable[..., Any], quantization: str) -> None:
    config = make_config(model=LOCAL, task=Gsm8kConfig(limit=700), quantization=CHOICES[quantization]())
    assert completions(config) == 707
    assert completions(config, 900) == 909


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": Int8Config()},
        {"model": LocalModelConfig("embedded", device="cuda")},
        {"model": LocalModelConfig("embedded", device="cpu", attention=Attention.eager)},
        {"model": StubConfig()},
        {"generation": GenerationConfig(max_new_tokens=24, batch_size=1)},
    ],
)
def test_elsewhere_nothing_is_asked_again(make_config: Callable[..., Any], changes: dict[str, Any]) -> None:
    config = make_config(**{"model": LOCAL, "task": Gsm8kConfig(limit=700), **changes})
    assert completions(config) == 700
    asked = make_config(**{"model": LOCAL, "task": Gsm8kConfig(limit=700, check_invariance=7), **changes})
    assert completions(asked) == 707, "so many are asked again whatever the engine is"


def test_int8_without_outliers_counts_each_row_by_itself(make_config: Callable[..., Any]) -> None:
    assert (
        completions(make_config(model=LOCAL, task=Gsm8kConfig(limit=700), quantization=Int8Config(0.0)))
        == 707
    )


def test_one_layer_that_mixes_rows_is_enough(make_config: Callable[..., Any]) -> None:
    def independent(quantization: QuantizationConfig) -> bool:
        return can_decode_batch_invariantly(
            make_config(model=LocalConfig(name="nowhere", device="cpu"), quantization=quantization)
        )

    assert independent(Nf4Config(overrides={"mlp": "int8_dynamic"}))
    assert not independent(Nf4Config(overrides={"mlp": "int8"}))
    assert independent(Nf4Config(overrides={"mlp": {"name": "int8", "threshold": 0}}))


SHAPE = LocalModelConfig(name="org/shape", shape="qwen25_7b_instruct", random_weights=True, device="cpu")


def test_the_work_of_the_task_counts(make_config: Callable[..., Any]) -> None:
    sizes = {}
    for task in (MemoryConfig(batch_size=2), SweepConfig(batch_sizes=[1, 999]), MemoryConfig(batch_size=200)):
        config = make_config(model=SHAPE, task=task)
        predicted = predict_footprint(resolve_job(config).model, task.workload(config.generation))
        assert predicted is not None
        sizes[str(task)] = predicted.total_mib
    two, smallest_cell, many = sizes.values()
    assert smallest_cell < two < many
