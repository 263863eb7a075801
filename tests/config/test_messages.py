"""Old names of choices and keys: the message names the new ones."""

from __future__ import annotations

import re

import pytest
from raising import raises

from runner.config.compose import compose_job
from runner.config.error_messages import convert_config_errors
from runner_base.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=pipeline"],
            r"^task=pipeline is now task=generate model=parts model\.name=FOLDER\. .*\bmodel\.stages, ",
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
        ("sweep", r" task\.repeats\b.* rerun=all"),
        ("memory", r" task\.repeats\b.* rerun=all"),
        ("generate", "^only .*task=gsm8k, .*task=likelihood, .*task=recall.* and task=tools .* seed=1"),
    ],
)
def test_a_task_without_repeat_says_what_to_use(task: str, message: str) -> None:
    with raises(ConfigError, "unknown_choice", "task.repeat_index") as refused, convert_config_errors():
        compose_job([f"task={task}", "task.repeat_index=1"])
    assert re.search(message, refused.value.reason)
