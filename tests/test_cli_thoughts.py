"""A sweep over budgets of thinking thinks once: later jobs reuse the thinking of of the one with
the largest budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thoughtful import thinking_model

from runner_base.signed_jsonl import dump_signed_line, parse_signed_line

Run = Callable[..., Any]
pytestmark = pytest.mark.slow


@pytest.fixture
def common(tmp_path: Path) -> tuple[str, ...]:
    """A model whose chat template begins the thinking; it never ends it by itself."""
    model = thinking_model(tmp_path / "thinks")
    return (
        "model=auto",
        f"model.name={model}",
        "model.dtype=float32",
        "task.limit=8",
        "print=json",
        "tracking=none",
    )


def answers(done: Any) -> list[dict[str, Any]]:
    lines = (Path(done.json()["output_dir"]) / "samples.jsonl").read_text().splitlines()
    kept = ("index", "token_ids", "text", "thinking", "verdict", "thinking_tokens", "answer_tokens", "ending")
    return sorted(
        ({key: json.loads(it).get(key) for key in kept} for it in lines), key=lambda it: it["index"]
    )


def result(done: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(done.json()["output_dir"]) / "result.json").read_text())[
        "result"
    ]
    return content


def notes(done: Any) -> list[str]:
    return [note for note in result(done)["notes"] if "reuse the thinking of" in note]


def test_a_smaller_budget_begins_with_the_thoughts_of_a_larger_one(
    runner: Run, common: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "apart").mkdir()
    budgets = (0, 3, 11)
    direct = [
        runner(*common, f"generation.thinking_tokens={it}", f"output_dir={tmp_path}/apart/{it}")
        for it in budgets
    ]
    whole = runner(*common)
    assert whole.code == 0, whole.err
    for budget, alone in zip(budgets, direct, strict=True):
        done = runner(*common, f"generation.thinking_tokens={budget}")
        assert done.code == 0, done.err
        assert answers(done) == answers(alone)
        assert {it["thinking_tokens"] for it in answers(done)} <= set(range(budget + 1))
        assert len(notes(done)) == 1
        assert f"5 answers reuse the thinking of job {whole.json()['job_id']}" in notes(done)[0]
        assert not notes(alone)


def test_thoughts_that_are_not_the_models_are_found_by_the_direct_questions(
    runner: Run, common: tuple[str, ...]
) -> None:
    whole = runner(*common)
    path = Path(whole.json()["output_dir"]) / "samples.jsonl"
    changed = []
    for line in path.read_text().splitlines():
        sample = parse_signed_line(line)
        changed.append(dump_signed_line(sample | {"token_ids": [7, *sample["token_ids"][1:]]}))
    path.write_text("".join(line + "\n" for line in changed))
    done = runner(*common, "generation.thinking_tokens=5")
    assert notes(done) == []
    (note,) = [note for note in result(done)["notes"] if "was not reused" in note]
    assert "A check of 3 questions found different thinking for 3 questions" in note
    assert all(it["token_ids"][0] != 7 for it in answers(done)), "none begins with the other job's tokens"
    sampled = runner(*common, "generation.thinking_tokens=5", "generation.temperature=0.5")
    assert sampled.code == 0, "a sampled job takes nobody's thoughts"
