"""A model that vLLM runs has a complete description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from described_kinds import check_description
from vllm_standin import VllmStandIn

from runner.config.root import RunnerConfig
from runner.options.remote.vllm.keys import VllmConfig
from runner_engine.embedded import MODEL_DIR


def test_it_has_a_complete_description(make_config: Callable[..., RunnerConfig], tmp_path: Path) -> None:
    model = VllmConfig(name=str(MODEL_DIR), python=str(VllmStandIn(tmp_path / "env").python))
    check_description(make_config(model=model), tmp_path, is_served=True)
