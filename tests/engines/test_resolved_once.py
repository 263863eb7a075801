"""A job, and a grid, looks for a model and reads its files once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from runner.config import resolved
from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.grid.plan import plan_job, predict_resources
from runner.grid.worker_limits import compute_worker_limits
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_engine.checkpoints import locating, resolved_model
from runner_engine.quantization import quantization_mix
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.lora import LoraConfig, PeftConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
TASKS = [Gsm8kConfig(limit=4), SweepConfig()]


@pytest.fixture
def located(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each model that was located, one by one."""
    names: list[str] = []
    real = locating.locate_model

    def counted(model: LocalModelConfig) -> Any:
        names.append(model.name)
        return real(model)

    monkeypatch.setattr(resolved_model, "locate_model", counted)
    return names


@pytest.mark.parametrize("lora", [LoraConfig(), PeftConfig(path="embedded")], ids=lambda lora: lora.name)
def test_a_job_looks_for_its_model_once(make_config: Make, located: list[str], lora: LoraConfig) -> None:
    model = LocalModelConfig(name="embedded", device="cpu")
    record = run(make_config(model=model, lora=lora, quantization=Nf4Config()))
    assert record.result.metrics["quantized_modules"] > 0
    assert located == ["embedded"]


def test_a_job_reads_its_mix_and_its_files_once(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """From composing to the loaded layers: whoever needs them asks the ResolvedJob."""
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str, label: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any) -> Any:
            calls[label] += 1
            return real(*args)

        monkeypatch.setattr(owner, name, counted)

    count(quantization_mix, "_parse_override", "overrides that were parsed")
    count(vars(resolved_model.ResolvedModel)["quantization_mix"], "func", "what is loaded")
    count(resolved_model, "read_model_config", "config.json")
    count(resolved_model, "detect_stored_format", "the stored quantization")
    count(resolved_model, "read_tensor_headers", "tensors")
    model = LocalModelConfig(name="embedded", device="cpu")
    quantization = Nf4Config(overrides={"down_proj": "int8"})
    record = run(make_config(model=model, quantization=quantization, task=Gsm8kConfig(limit=1)))
    assert record.result.metrics["quantized_modules"] > 0
    assert set(calls.values()) == {1}, calls
    assert len(calls) == 5


def test_a_grid_looks_for_each_model_once(
    make_config: Make, located: list[str], tiny_model: LocalModelConfig
) -> None:
    models = [tiny_model, LocalModelConfig(name="embedded", device="cpu")]
    configs = [
        make_config(model=model, seed=seed, task=task)
        for model in models
        for seed in (1, 2)
        for task in TASKS
    ]
    with resolved_model.share_model_files_between_jobs():
        plan = [plan_job([], config) for config in configs]
    assert located == [model.name for model in models]
    assert compute_worker_limits(plan, list(range(len(plan))), "auto").total == 1
    assert predict_resources(resolved.resolve_job(configs[0])).mib > 0
    assert len(located) == 3, "outside of a grid's plan every job looks for itself: files may have changed"
