"""Old names of choices and keys: the message names the new ones."""

from __future__ import annotations

import pytest

from runner.config.compose import compose_job
from runner.config.error_messages import convert_config_errors
from runner_base.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=pipeline"],
            r"^task=pipeline is now task=generate model=parts model.name=FOLDER\. model\.stages, ",
        ),
        (["task.until=nf4"], "^task.until is now task.early_stop_vs$"),
        (["task=memory", "task.context=[64]"], "^task.context is now task.context_lengths$"),
        # no key of this task is meant
        (["task=generate", "task.batch=[1]"], "^task.batch: no key 'task.batch'"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message), convert_config_errors():
        compose_job(overrides)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("sweep", "^task.repeat: this task has task.repeats"),
        ("memory", "^task.repeat: this task has task.repeats"),
        (
            "generate",
            "^task.repeat: only task=gsm8k, task=likelihood, task=recall and task=tools have it. For this task, another seed",
        ),
    ],
)
def test_a_task_without_repeat_says_what_to_use(task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), convert_config_errors():
        compose_job([f"task={task}", "task.repeat=1"])
