"""The keys of a team as they are composed: data sets by name, what --help says, and what goes with
no team."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.config.choices import list_choices
from runner.config.compose import compose_job
from runner.config.help import describe_job_keys
from runner.config.hydra import to_runner_config
from runner_base.errors import ConfigError


def task(*overrides: str, folder: Path | None = None) -> Any:
    return to_runner_config(
        *compose_job(["task=agents", *overrides], config_folder=None if folder is None else str(folder))
    ).task


@pytest.mark.thorough
def test_a_data_set_by_name(tmp_path: Path) -> None:
    assert task("task.data=gsm8k").data == "openai/gsm8k"
    assert task("task.data=embedded_hard").split == "hard"
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "quiz.yaml").write_text("data: org/quiz\nchoices_key: options\n")
    quiz = task("task.data=quiz", folder=tmp_path)
    assert (quiz.has_letters, quiz.choices_key) == (True, "options")


def test_expressions_are_refused() -> None:
    with raises(ConfigError, "unsupported", "task.answer_type"):
        task("task.data=math_500")


def test_the_help_describes_a_team() -> None:
    lines = describe_job_keys(
        *compose_job(["task=agents", "task.data=embedded_hard5", "task.limit=7", "task.graph=null"])
    ).splitlines()
    beside = {
        key: text
        for line in lines
        if (key := line.partition("=")[0].strip())
        for text in [line.partition("=")[2]]
    }
    assert beside["task.split"].startswith("hard5 ")
    assert re.fullmatch(r"7 +# the first N questions; null: all", beside["task.limit"])
    assert beside["task.mode"].startswith("full_connected ")
    assert beside["task.roles"].startswith("null ")
    folded = re.sub(r"\s+#?\s*", " ", "\n".join(lines))
    assert "direct_answer (one agent) | full_connected | random | chain | debate | layered | star" in folded
    assert f"Data sets: {', '.join(list_choices('dataset'))}" in folded
