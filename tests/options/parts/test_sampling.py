"""A sampling parameter has the same effect on a model in parts as in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import in_process
import pytest
from sampled_alike import EXACT, SAMPLINGS, answers_in_python, generated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return answers_in_python()


@pytest.fixture(scope="module")
def embedded_parts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model in two parts."""
    folder = tmp_path_factory.mktemp("split")
    code, _, errors = in_process.run(
        "runner", ["task=split", "task.num_parts=2", "task.output_dir=parts", "tracking=none"], folder, {}
    )
    assert code == 0, errors
    return str(folder / "parts")


@pytest.mark.thorough
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_model_in_parts(
    name: str, answers: dict[str, str], runner: Callable[..., Any], embedded_parts: str
) -> None:
    model = ("model=parts", f"model.name={embedded_parts}", "model.stages=1")
    assert generated(runner, SAMPLINGS[name], *model, *EXACT) == answers[name]
