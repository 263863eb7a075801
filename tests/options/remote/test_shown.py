"""--help and completion know the keys of a student and a teacher."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion

from runner.config.completion import add_value_completion
from runner.config.compose import compose_job
from runner.config.help import describe_job_keys
from runner.config.runner_hydra import create_hydra


@pytest.mark.thorough
def test_completion_offers_what_a_key_of_the_student_takes() -> None:
    plugin = add_value_completion(BashCompletion(create_hydra().config_loader))
    assert plugin._query("config", "model=hybrid model.student.dtype=b") == ["model.student.dtype=bfloat16"]


@pytest.mark.thorough
def test_help_describes_the_keys_of_student_and_teacher() -> None:
    lines = describe_job_keys(*compose_job(["model=hybrid"])).splitlines()
    (dtype,) = (line for line in lines if line.lstrip().startswith("model.student.dtype="))
    key, _, comment = dtype.partition("#")
    assert key.strip() == "model.student.dtype=auto"
    assert comment.strip() == "auto (as the checkpoint) | float32 | bfloat16 | float16"
    (retries,) = (line for line in lines if line.lstrip().startswith("model.teacher.retries="))
    assert retries.lstrip().startswith("model.teacher.retries=6 ")
    assert "429" in retries
