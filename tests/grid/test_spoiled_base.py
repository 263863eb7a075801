"""A job that fails amid exchanging the layers of a shared base spoils no later job of its worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from runner.config.root import RunnerConfig
from runner.grid.outcomes import run_job
from runner.tasks.generate.keys import GenerateConfig
from runner_base import Status
from runner_engine import BaseCache, LocalModelConfig
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.settings.generation import GenerationConfig


def answer(
    config: RunnerConfig, bases: BaseCache | None = None, seed: int = 0
) -> tuple[Status, Any]:
    """Run a job as a worker does; return how it ended, and its tokens and how often a base was loaded."""
    outcome = run_job(replace(config, seed=seed), bases=bases)
    metrics = outcome.record.result.metrics if outcome.record else {}
    return outcome.status, (metrics.get("new_tokens"), outcome.message)


def test_the_next_job_is_as_without_the_failed_one(
    make_config: Callable[..., RunnerConfig],
    tiny_model: LocalModelConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(
        model=tiny_model,
        task=GenerateConfig(prompt="hello"),
        generation=GenerationConfig(max_new_tokens=12),
    )
    bases, whole = BaseCache(), FastLayers

    def half_exchanged(model: Any, *rest: Any) -> Any:
        with torch.no_grad():
            model.get_output_embeddings().weight.fill_(float("nan"))
        raise RuntimeError("amid the exchange")

    status, (fresh, _) = answer(config, bases)
    assert status is Status.FINISHED
    monkeypatch.setattr("runner_engine.local.engine.FastLayers", half_exchanged)
    status, (_, message) = answer(config, bases, seed=1)
    assert status is Status.FAILED
    assert "amid the exchange" in message
    monkeypatch.setattr("runner_engine.local.engine.FastLayers", whole)
    status, (after, message) = answer(config, bases, seed=2)
    assert (status, after) == (Status.FINISHED, fresh), message


def test_a_base_with_a_process_of_its_own_stays_after_an_error() -> None:
    class Server:
        def close(self) -> None: ...

    for base, stays in ((object(), False), (Server(), True)):
        bases = BaseCache()
        bases.get("a", lambda base=base: base)  # type: ignore[misc]
        bases.drop_after_error()
        assert bases.get("a", object)[1] is stays
