"""A model in parts has a complete description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from described_kinds import check_description
from stages import split_into

from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import PartsModelConfig
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.model import LocalModelConfig, to_local_model_config


def test_it_has_a_complete_description(make_config: Callable[..., RunnerConfig], tmp_path: Path) -> None:
    config = make_config(model=PartsModelConfig(name=str(split_into(MODEL_DIR, tmp_path / "parts", 2))))
    check_description(config, tmp_path, ("2 processes of a pipeline share",), starts_processes=True)


def test_a_model_in_parts_has_some_keys_of_a_local_model() -> None:
    parts = PartsModelConfig("x", device="cpu", threads=2, chat_template_kwargs={"enable_thinking": False})
    keys: dict[str, Any] = {"device": "cpu", "threads": 2, "chat_template_kwargs": {"enable_thinking": False}}
    assert to_local_model_config(parts) == LocalModelConfig(name="x", **keys)
