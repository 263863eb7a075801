"""Each role of a team may have an adapter of its own, on one base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEAM = (
    "task=agents", "task.domain=brief", "task.mode=debate", "task.agents=2", "task.roles=[math_solver,inspector]",
    "task.decision_method=majority_vote", "task.limit=3", "model.dtype=float32", "generation.max_new_tokens=32",
    "tracking=none", "print=json",
)  # fmt: skip
SEVERAL = ("lora=several", "lora.adapters={team: embedded_team}")


def calls_of(runner: Callable[..., Any], folder: Path, *overrides: str) -> dict[str, list[str]]:
    """Return what each role said, by its words, in the order of the questions."""
    finished = runner(*TEAM, *overrides, f"output_dir={folder}")
    assert finished.code == 0, finished.err
    (file,) = (folder / "jobs").glob("*/calls.jsonl")
    calls = [json.loads(line) for line in file.read_text().splitlines()]
    said: dict[str, list[str]] = {}
    for call in sorted(calls, key=lambda call: str(call["id"])):
        if "code" not in call:
            said.setdefault(call["who"], []).append(call["text"])
    return said


@pytest.mark.thorough
@pytest.mark.slow
def test_a_role_answers_with_its_adapter_and_the_others_as_the_base(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    adapted = calls_of(runner, tmp_path / "adapted", "lora=embedded_team")
    base = calls_of(runner, tmp_path / "base")
    solver, inspector = "Math Solver", "Inspector"
    assert adapted[solver] != base[solver]
    assert adapted[inspector] != base[inspector]

    mixed = calls_of(runner, tmp_path / "mixed", *SEVERAL, "task.role_adapters={math_solver: team}")
    assert mixed == {solver: adapted[solver], inspector: base[inspector]}
    other = calls_of(runner, tmp_path / "other", *SEVERAL, "task.role_adapters={inspector: team}")
    assert other == {solver: base[solver], inspector: adapted[inspector]}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["task.role_adapters={math_solver: team}"], "error: task=agents selects adapters by name (team), but lora=none has no named adapters"),
        ([*SEVERAL, "task.role_adapters={math_solver: teem}"], "no adapter 'teem'. Did you mean team?"),
        ([*SEVERAL, "task.role_adapters={solver: team}"], "task.role_adapters=solver: give roles: math_solver"),
        ([*SEVERAL], "error: lora=several: no request of task=agents selects an adapter"),
    ],
    ids=["none there", "no such", "no role", "none named"],
)  # fmt: skip
def test_what_cannot_be_is_said_first(runner: Callable[..., Any], overrides: list[str], reason: str) -> None:
    finished = runner(*TEAM, *overrides)
    assert finished.code == 2
    assert reason in finished.err
