"""Our own server and vLLM give the same verdicts; needs both options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from runner.records.jobs import read_samples

Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "generation.max_new_tokens=200")


def texts(folder: Path) -> dict[int, tuple[str, str | None]]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return {
        index: (sample.answer.text, sample.answer.verdict) for index, sample in read_samples(path).items()
    }


def answers_here(runner: Run, folder: Path, questions: int) -> dict[int, tuple[str, str | None]]:
    """Return the answers of our own engine."""
    folder.mkdir()
    done = runner(*JOB, f"task.limit={questions}", "model.dtype=float32", "model.device=cpu", cwd=folder)
    assert done.code == 0, done.err
    answers = texts(folder)
    assert len(answers) == questions
    return answers


@pytest.mark.thorough
@pytest.mark.slow
def test_our_own_server_gives_the_same_verdicts(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", "model.dtype=float32") as server:
        address = f"model.base_url=http://127.0.0.1:{server.port}/v1"
        there = runner(*JOB, "task.limit=48", "model=api", address, "model.name=embedded")
    assert there.code == 0, there.err
    assert texts(tmp_path) == answers_here(runner, tmp_path / "here", 48)
