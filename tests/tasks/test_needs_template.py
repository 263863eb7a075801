"""Which tasks need the model's chat template, and are refused before its weights are read if it has
none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.prompts import Framing
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.config.wording import PromptStyle
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import ConfigError
from runner_engine import check_model_and_adapter_files
from runner_engine.settings.model import LocalModelConfig

CHATS: list[TaskConfig] = [Gsm8kConfig(), LikelihoodConfig(), GenerateConfig(prompt="hi")]
OTHERS: list[TaskConfig] = [
    Gsm8kConfig(prompt=PromptStyle.text),
    LikelihoodConfig(prompt=PromptStyle.text),
    LikelihoodConfig(data="texts.txt"),
    GenerateConfig(prompt="hi", format=Framing.raw),
]


@pytest.fixture
def plain(tiny_llama: Path, tmp_path: Path) -> Path:
    """A checkpoint without a template."""
    shutil.copytree(tiny_llama, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    return tmp_path / "plain"


@pytest.mark.parametrize("task", [*CHATS, *OTHERS], ids=lambda task: task.name)
def test_only_chats_need_one(make_config: Callable[..., RunnerConfig], plain: Path, task: TaskConfig) -> None:
    config = make_config(model=LocalModelConfig(name=str(plain), device="cpu"), task=task)
    if task in OTHERS:
        check_model_and_adapter_files(resolve_job(config).model, config.task.uses_chat_template)
        return
    with pytest.raises(ConfigError, match=r"plain has no chat template, so .*: use task\.prompt=text"):
        check_model_and_adapter_files(resolve_job(config).model, config.task.uses_chat_template)
