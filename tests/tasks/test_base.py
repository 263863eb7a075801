"""The contract of a task, held against every task there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.root import RunnerConfig
from runner.config.tasks import TASKS
from runner.tasks.base import Task, Uses, import_task_module
from runner.tasks.generate.keys import GenerateConfig

Make = Callable[..., RunnerConfig]
KEYS = {
    "generate": {"prompt": "Hi"},
    "merge": {"parts": "p", "output_dir": "m"},
    "verify": {"parts": "p"},
    "archive": {"parts": "p", "output_dir": "a"},
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_contract(name: str, make_config: Make) -> None:
    config = make_config(task=TASKS[name](**KEYS.get(name, {})))
    assert config.task.name == name
    task: Task = import_task_module(config)
    assert task.__name__.startswith((f"runner.tasks.{name}", "runner.options."))  # type: ignore[attr-defined]
    assert isinstance(task.VERSION, int)
    assert isinstance(task.FROM_LEDGER, bool)
    assert task.USES
    assert all(isinstance(one, Uses) for one in task.USES)
    assert callable(task.prepare)
    assert callable(task.run)
    one_source = {Uses.weights, Uses.model_files, Uses.own_location} & task.USES
    assert len(one_source) == 1, "a task works on one model, from one place"


def test_stdin_and_deliveries_are_the_tasks_own_word(tmp_path: Path) -> None:
    assert GenerateConfig(prompts="-").reads_stdin
    assert GenerateConfig(prompt="-").reads_stdin
    assert not GenerateConfig(prompt="- a list").reads_stdin
    assert GenerateConfig(prompt="Hi", output=str(tmp_path / "out.jsonl")).output_file == str(
        tmp_path / "out.jsonl"
    )
    assert GenerateConfig(prompt="Hi").output_file is None
