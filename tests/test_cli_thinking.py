"""Models that think, as a user sees them: verdicts, counts and notes, over a server and with a
local model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thoughtful import thinking_model

Run = Callable[..., Any]


def samples(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda it: it["index"])


@pytest.mark.thorough
@pytest.mark.slow
def test_a_local_model_whose_template_begins_the_thinking(runner: Run, tmp_path: Path) -> None:
    model = thinking_model(tmp_path / "thinks")
    done = runner("model=auto", f"model.name={model}", "task.limit=6", "print=json", "tracking=none")
    assert done.code == 0, done.err
    kept = samples(tmp_path)
    assert [one["in_thinking"] for one in kept] == [True] * 6
    assert [one["verdict"] for one in kept] == ["cut_off"] * 6, "it never closes the thinking"
    assert done.json()["metrics"]["cut_off_thinking"] == 6
    (tmp_path / "outputs" / "jobs" / done.json()["job_id"] / "result.json").unlink()
    again = runner("model=auto", f"model.name={model}", "task.limit=6", "print=json", "tracking=none")
    assert again.json()["metrics"]["cut_off_thinking"] == 6, "what was recorded is judged as it was"
