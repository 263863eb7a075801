"""--flips A B: the questions that only one of two runs solved, side by side."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(scope="session")
def flips(store: Store) -> Store:
    """Of ten questions the baseline solves 0 to 5, nf4 solves 2 to 6: two lost, one won."""
    store.job("flips", "base", NONE, marks(6, 10))
    store.job("flips", "four", NF4, [2 <= index <= 6 for index in range(10)])
    store.job("flips", "far", {**NF4, "seed": "3", "lora.name": "pth"}, marks(6, 10, 1))
    return store


def test_side_by_side_in_the_terminal(flips: Store, show: Any) -> None:
    code, out, err = show("flips", "--flips", "base", "four")
    assert (code, err) == (0, "")
    assert "nf4 vs none: 2 lost, 1 won, 4 right in both, 3 wrong in both" in out
    lost = out.index("lost #0 question 0  gold 42")
    assert lost < out.index("lost #1 question 1") < out.index("won #6 question 6")
    first = out[lost : out.index("lost #1")]
    assert first.index("none  correct: 42") < first.index("nf4  wrong: 7")  # the baseline on the left
    line = next(line for line in first.splitlines() if "base thinks about question 0" in line)
    assert line.index("base thinks") < line.index("four thinks about question 0")
    assert "#2 " not in out


def test_everything_in_json(flips: Store, show: Any) -> None:
    _, out, _ = show("flips", "--flips", "quantization=none", "quantization='nf4' and seed=0", "--format", "json")
    table = json.loads(out)["tables"][0]
    found = table["flips"][0]
    assert (found["job_id"], found["baseline_job_id"]) == ("four", "base")
    assert (found["lost"], found["won"], found["both_right"], found["both_wrong"]) == (2, 1, 4, 3)
    assert [(flip["index"], flip["won"]) for flip in found["questions"]] == [(0, False), (1, False), (6, True)]
    won = found["questions"][2]
    assert won["ours"] == {"verdict": "correct", "answer": "42", "text": "four thinks about question 6\n#### 42"}
    assert won["theirs"]["answer"] == "7"
    comparison = {row["job_id"]: row["comparison"] for row in table["rows"]}["four"]
    assert (comparison["wins"], comparison["losses"]) == (1, 2)


def test_any_two_runs_that_answered_the_same_questions(flips: Store, show: Any) -> None:
    code, out, _ = show("flips", "--flips", "four", "far", "--format", "markdown")  # they differ in three keys
    assert code == 0
    assert "- **lost, question 6:** question 6 Gold: 42" in out
    assert "- **won, question 1:**" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base", "base"], "both are base"),
        (["base", "quantization=nf4"], "2 runs match (far, four); they differ in lora, seed: name one"),
        (["base", "fuor"], "no finished job or run 'fuor'. Did you mean four?"),
        (["base", "four", "--baseline", "quantization=none"], "leave out --baseline"),
    ],
)
def test_mistakes(flips: Store, show: Any, arguments: list[str], said: str) -> None:
    code, out, err = show("flips", "--flips", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_runs_that_cannot_be_compared_are_refused(store: Store, show: Any) -> None:
    store.job("unlike", "base", NONE, marks(5, 10))
    store.job("unlike", "other", NF4, marks(5, 10), questions="puzzle")
    store.job("unlike", "speed", {"task.name": "sweep"}, tags={"task": "sweep"})
    code, _, err = show("unlike", "--flips", "base", "other")
    assert code == 2
    assert "--flips base other: other questions: 10 here, 10 in the baseline, 0 are the same" in err
    store.job("unlike", "reworded", {"lora.name": "peft"}, marks(5, 10), prompts="reworded")
    store.job("unlike", "shots", {"task.shots": "8"}, marks(4, 10), prompts="reworded")
    code, _, err = show("unlike", "--flips", "base", "reworded")
    assert code == 2
    assert "other prompts: 10 of 10 questions were put in other words" in err
    code, out, _ = show("unlike", "--flips", "base", "shots")  # a key in which they differ makes the prompts
    assert code == 0
    assert "other prompts for 10 of 10 questions" in out
    code, _, err = show("unlike", "--flips", "base", "speed")
    assert code == 2
    assert "task gsm8k and task sweep have no question in common" in err
