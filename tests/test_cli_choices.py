"""Multiple choice as a new user meets it: files of MMLU's and ARC's shape, asked for a letter or
scored by likelihood."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from runner.config.tasks import TASKS

Run = Callable[..., Any]
TEXTS = ["blue", "green", "red", "white"]
QUESTION = {"question": "Which colour has grass?"}
ROWS: dict[str, dict[str, Any]] = {
    "mmlu": QUESTION | {"subject": "botany", "choices": TEXTS, "answer": 1},
    "arc": QUESTION
    | {"id": "M_1", "choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]}, "answerKey": "2"},
}
ASKED = "Which colour has grass?\nA. blue\nB. green\nC. red\nD. white\n\n"
ASKING = [name for name, task in TASKS.items() if "choices_key" in {key.name for key in fields(task)}]
LETTER = "Solve it step by step. End with '#### ' and the letter."


def written(folder: Path, name: str, row: dict[str, Any]) -> str:
    (folder / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    return f"task.data={name}.jsonl"


def record(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("outputs/jobs/*/result.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


@pytest.mark.thorough
@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_this_shape_is_asked_for_a_letter(runner: Run, tmp_path: Path, name: str) -> None:
    data = written(tmp_path, name, ROWS[name])
    plan = runner("model=stub", data, "plan=true", "task.show_prompt=1", "tracking=none")
    assert plan.code == 0, plan.err
    assert "\n".join(line.strip() for line in (ASKED + LETTER).splitlines()) in "\n".join(
        line.strip() for line in plan.out.splitlines()
    )
    found = runner("model=stub", data, "tracking=none", "print=json")
    named = runner(
        *("model=stub", data, "task.choices_key=choices", "tracking=none", "print=json"),
        *(["task.answer_key=answerKey"] if name == "arc" else []),
    )
    assert found.json()["job_id"] == named.json()["job_id"], "what is found is the job that names it"
    params = record(tmp_path)["params"]
    assert (params["task.choices_key"], params["task.instruction"]) == ("choices", LETTER)
    (samples,) = tmp_path.glob("outputs/jobs/*/samples.jsonl")
    assert [json.loads(line)["gold"] for line in samples.read_text().splitlines()] == ["B", "B"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("task", ASKING)
def test_other_choices_are_one_message_that_names_the_key(runner: Run, tmp_path: Path, task: str) -> None:
    data = written(tmp_path, "odd", QUESTION | {"choices": TEXTS, "answer": "green"})
    done = runner("model=stub", f"task={task}", data)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: odd.jsonl, line 1: the layout of `choices` is unknown: ")
    assert "task.choices_key=choices and task.answer_key=KEY" in done.err
    assert done.err.count("\n") == 1
    assert runner("model=stub", f"task={task}", data, "task.choices_key=choices", "plan=true").code == 0


@pytest.mark.parametrize("name", ROWS)
def test_likelihood_of_choices_says_first_how_many_are_right(runner: Run, tmp_path: Path, name: str) -> None:
    data = written(tmp_path, name, ROWS[name])
    done = runner("model=stub", "task=likelihood", data, "tracking=none", "task.show_prompt=1")
    assert done.code == 0, done.err
    labels = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ") and line.split()]
    assert labels[:3] == ["accuracy", "normalized", "log-likelihood"]
    accuracy = next(line for line in done.out.splitlines() if line.startswith("  accuracy"))
    assert "95 % interval" in accuracy
    assert "2 questions" in accuracy
    assert "More:    print=full" in done.out
    assert record(tmp_path)["result"]["facts"]["prompt"].startswith("chat · form ")
    assert "prompt 0 after the chat template:\nWhich colour has grass?" in done.err
    assert "scored after it: blue | green | red | white" in done.err
    again = runner("model=stub", "task=likelihood", data, "tracking=none", "task.show_prompt=2", "print=none")
    assert "prompt 1 after the chat template:" in again.err, "also of a job that is done"


def test_a_text_without_a_question_has_no_prompt_to_show(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three four")
    plan = runner("task=likelihood", "task.data=a.txt", "task.show_prompt=1", "plan=quick", "tracking=none")
    assert plan.code == 0, plan.err
    assert "scored in windows of 1024 tokens" in plan.out
    assert runner("task=likelihood", "task.data=a.txt", "task.show_prompt=-1").code == 2
