"""A sampling parameter has the same effect in jobs, a chat and Python; options have tests of their
own of this."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from sampled_alike import EXACT, QUESTION, SAMPLINGS, TOKENS, answers_in_python, generated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return answers_in_python()


@pytest.mark.thorough
@pytest.mark.parametrize("name", SAMPLINGS)
def test_jobs(name: str, answers: dict[str, str], runner: Callable[..., Any]) -> None:
    assert generated(runner, SAMPLINGS[name], *EXACT) == answers[name]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_chat(name: str, answers: dict[str, str], tmp_path: Path) -> None:
    settings = "".join(f"/set generation.{key}={value}\n" for key, value in SAMPLINGS[name].items())
    command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=json", *EXACT]
    command += [f"generation.max_new_tokens={TOKENS}"]
    done = warm_process.complete(command, f"{settings}{QUESTION}\nquit\n".encode(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/jobs/*/samples.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["text"] == answers[name]
