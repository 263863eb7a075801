"""--help and completion know the keys of a student and a teacher."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion

from runner.config.completion import completing_values
from runner.config.compose import compose
from runner.config.help import described
from runner.config.runner_hydra import hydra_of


@pytest.mark.thorough
def test_completion_offers_what_a_key_of_the_student_takes() -> None:
    plugin = completing_values(BashCompletion(hydra_of().config_loader))
    assert plugin._query("config", "model=hybrid model.student.dtype=b") == ["model.student.dtype=bfloat16"]


@pytest.mark.thorough
def test_help_describes_the_keys_of_student_and_teacher() -> None:
    lines = described(*compose(["model=hybrid"])).splitlines()
    (dtype,) = (line for line in lines if line.lstrip().startswith("model.student.dtype="))
    key, _, comment = dtype.partition("#")
    assert key.strip() == "model.student.dtype=auto"
    assert comment.strip() == "auto (as the checkpoint says) | float32 | bfloat16 | float16"
    (retries,) = (line for line in lines if line.lstrip().startswith("model.teacher.retries="))
    assert "# how often a request without an answer is sent again" in retries
