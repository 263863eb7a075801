"""Single checks and predictions of a job before it loads anything, from a config alone."""

from __future__ import annotations

from collections.abc import Mapping

from runner.config.resolved import resolve
from runner.config.root import RunnerConfig
from runner_engine.plan import footprint, formats, memory_check
from runner_engine.plan.footprint import Footprint
from runner_engine.plan.load_plan import plan_load


def predict(config: RunnerConfig, batch_size: int, prompt_tokens: int, new_tokens: int) -> Footprint | None:
    return footprint.predict(resolve(config), (batch_size, prompt_tokens, new_tokens))


def check_format(config: RunnerConfig) -> None:
    formats.check(resolve(config))


def check_memory(config: RunnerConfig, rooms_mib: Mapping[str, float]) -> list[str]:
    return memory_check.check_memory(plan_load(resolve(config)), rooms_mib)
