"""Teams over questions with choices: letters are asked for, found, voted on and judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tasking import work
from teams import Starts, Team, calls_in, team

from runner.config.extractors import GoldKind
from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import DecisionMethod, PromptStyle, Role, Topology
from runner_base.errors import DataError
from runner_base.result import CALLS, GRAPH, Verdict

Make = Callable[..., RunnerConfig]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "Which colour has the sky?", "options": ["green", "blue"], "answer": "B"},
    {"question": "Which is a prime?", "options": ["9", "15", "7"], "answer": 2},
    {"question": "What do cows drink?", "options": ["water", "milk"], "answer": "water"},
]


@pytest.fixture
def quiz(tmp_path: Path) -> str:
    """Return a folder with three questions to score, and three others to train on."""
    for split, words in (("test", ""), ("train", "Tell me. ")):
        rows = [{**row, "question": f"{words}{row['question']}"} for row in QUESTIONS]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def test_a_vote_over_letters(make_config: Make, again: Starts, quiz: str) -> None:
    said = {"0": ["B", "B", "A", "A"], "1": ["A", "C", "B", "C"], "2": ["B", "A", "B", "none"]}
    prompts = dict[str, str]()

    def say(key: str, prompt: str) -> str:
        prompts[key] = prompt
        _, question, _, agent = key.split("/")
        letter = said[question][int(agent)]
        return f"A or B or C? The answer is {letter}" if letter != "none" else "I cannot tell."

    config = make_config(
        task=team(data=quiz, choices_key="options", decision_method=DecisionMethod.majority_vote)
    )
    recorder = again()
    result = work(agents, config, recorder, Team(say))
    assert [recorder.done[at].answer.extracted for at in range(3)] == [{"team": letter} for letter in "BCB"]
    assert [recorder.done[at].answer.verdict for at in range(3)] == [
        Verdict.correct,
        Verdict.correct,
        Verdict.wrong,
    ]
    assert [recorder.done[at].gold for at in range(3)] == ["B", "C", "A"]
    assert result.metrics["accuracy"] == 2 / 3
    assert "Which is a prime?\nA. 9\nB. 15\nC. 7" in prompts["test/1/0/0"]
    assert recorder.done[2].answer.text == "The agents' answers: B, A, B, no answer."


def test_hints_programs_and_the_decision(make_config: Make, again: Starts, quiz: str) -> None:
    roles = [Role.programming_expert, Role.math_solver]
    task = team(
        data=quiz,
        choices_key="options",
        limit=1,
        mode=Topology.chain,
        agents=2,
        roles=roles,
        domain=PromptStyle.gsm8k,
    )
    prompts = dict[str, str]()

    def say(key: str, prompt: str) -> str:
        prompts[key] = prompt
        if key == "test/0/0/0":
            return "```python\nanswer = 'AB'[1]\n```"
        return "The answer is A" if key == "test/0/0/1" else "The answer is B, as the program says and not A"

    recorder = again()
    result = work(agents, make_config(task=task), recorder, Team(say))
    assert "Hint: in this round, other agents have picked B." in prompts["test/0/0/1"]
    assert "This program gives B." in prompts["test/0/decision"]
    assert (recorder.done[0].answer.extracted, result.metrics["code_failed"]) == ({"team": "B"}, 0)
    assert [line["code"]["answer"] for line in calls_in(recorder) if "code" in line] == ["B"]


def test_a_graph_learns_from_letters_and_a_restart_asks_nothing_again(
    make_config: Make, again: Starts, quiz: str
) -> None:
    task = team(
        data=quiz, choices_key="options", mode=Topology.full_connected, optimized_spatial=True, num_iterations=2,
        imp_per_iterations=1,
    )  # fmt: skip
    config = make_config(task=task)
    inputs = agents.prepare(config)
    golds = {item.question: item.gold for item in inputs.items + inputs.train}

    def say(_: str, prompt: str) -> str:
        return f"The answer is {next(gold for question, gold in golds.items() if question in prompt)}"

    first = work(agents, config, again(), Team(say))
    assert (
        first.metrics["train_solved"],
        first.metrics["accuracy"],
        first.metrics["spatial_edges_after"],
    ) == (8, 1, 7)
    recorder = again()
    lines = (recorder.folder / CALLS).read_text().splitlines(keepends=True)
    (recorder.folder / CALLS).write_text("".join(lines[:30]))
    for name in ("samples.jsonl", GRAPH):
        (recorder.folder / name).unlink()
    engine = Team(say)
    resumed = work(agents, config, again(), engine)
    assert len(engine.asked) == len(lines) - 30
    assert resumed.metrics["accuracy"] == 1


def test_questions_that_hold_their_choices(make_config: Make, again: Starts, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(
        json.dumps({"question": "Is it (A) hot or (B) cold?", "answer": "So cold. #### B"}) + "\n"
    )
    config = make_config(task=team(data=str(file), answer_type=GoldKind.letter, limit=None))
    assert work(agents, config, again(), Team(lambda *_: "The answer is B")).metrics["accuracy"] == 1


def test_programming_tasks_are_refused_before_anything_is_loaded(make_config: Make, tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():", "test": "def check(f): pass", "entry_point": "f"}
    (tmp_path / "code.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="line 1: the keys test, entry_point belong to programming tasks"):
        agents.prepare(make_config(task=team(data=str(tmp_path / "code.jsonl"))))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("domain", PromptStyle)
def test_a_command_over_choices(runner: Callable[..., Any], quiz: str, domain: PromptStyle) -> None:
    """The embedded model solves word problems only: here it counts that all roles are asked, read
    and judged."""
    keys = [
        f"task.data={quiz}",
        "task.choices_key=options",
        f"task.domain={domain}",
        "generation.max_new_tokens=16",
    ]
    done = runner("task=agents", *keys, "tracking=none", "print=json")
    assert done.code == 0, done.err
    metrics = done.json()["metrics"]
    assert (metrics["n"], metrics["calls"], metrics["errors"]) == (3, 15, 0)
    assert metrics["correct"] + metrics["wrong"] + metrics["no_answer"] + metrics["cut_off"] == 3
