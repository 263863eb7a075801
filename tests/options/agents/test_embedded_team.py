from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random

import pytest
import warm_process

from runner.datasets.word_problems import Split, generate_practice_problem, generate_problem
from runner.options.agents.agent_prompts import (
    ROLES,
    build_agent_messages,
    build_decision_messages,
    make_agent_reply,
)
from runner.options.agents.keys import PromptStyle, Role
from runner.options.agents.wording import load_prompt_texts
from tools.embedded_model.steps import steps_of
from tools.embedded_model.team_data import mistaken, program, reply, spoken, team_example, written_out

PROBLEMS = [generate_practice_problem(3 + index % 3, index) for index in range(300)]
PROBLEMS += [generate_problem(Split.TRAIN, index) for index in range(300)]


def ran(text: str) -> float:
    variables: dict[str, float] = {}
    exec(text, {}, variables)
    return variables["answer"]


def test_steps_say_what_the_worked_answer_says() -> None:
    for one in PROBLEMS:
        steps = steps_of(one)
        *lines, last = written_out(steps).splitlines()
        assert lines == one.answer.splitlines()[:-1]
        assert last == f"The answer is {one.gold}"
        assert ran(program(steps)) == int(one.gold)
        assert len(program(steps).splitlines()) == one.steps


def test_a_program_goes_on_from_its_own_steps() -> None:
    one = next(one for one in PROBLEMS if "boxes with" in one.question and "bags with" in one.question)
    assert re.match(r"a=\d+\*\d+\nb=\d+\*\d+\n(c|answer)=a\+b", program(steps_of(one)))
    chains = [program(steps_of(one)).splitlines() for one in PROBLEMS if one.steps == 5]
    for chain in chains:
        for name, line in zip("bcd", chain[2:], strict=False):
            assert re.search(rf"\b{name}\b", line.split("=")[1])


def test_a_mistake_is_one_and_what_follows_is_carried_on() -> None:
    kept = 0
    for index, one in enumerate(PROBLEMS):
        steps = mistaken(Random(index), steps_of(one))
        kept += str(steps[-1].value) == one.gold
        slips = 0
        for step in steps:
            try:
                right = eval(f"{step.left}{step.sign}{step.right}") if step.right else 0
            except ZeroDivisionError:
                right = 0
            slips += max(0, int(right)) != step.value
        assert slips <= 1
    assert kept < 0.05 * len(PROBLEMS)  # some cancel out: 2*2 and 2+2


def test_examples_are_calls_of_the_task_with_the_right_answer() -> None:
    systems: dict[str, int] = {}
    right = heard = 0
    for index in range(1500):
        example = team_example(index, 5)
        assert example == team_example(index, 5)
        assert [piece.is_answer for piece in example] == [False, False, False, True, False]
        system, user, answer = (example[0].text, example[1].text, example[3].text.removesuffix("<|im_end|>"))
        systems[system] = systems.get(system, 0) + 1
        gold = str(int(ran(answer))) if "answer=" in answer else answer.rsplit(" ", 1)[1]
        others = re.findall(r"^\d: .*?(?:The answer is|gives) (\d+)", user, re.MULTILINE)
        heard, right = heard + len(others), right + others.count(gold)
        if " is wrong." in answer or " is correct." in answer:
            verdicts = re.findall(r"\d is (correct|wrong)\.", answer)
            assert verdicts == ["correct" if other == gold else "wrong" for other in others]
    texts = [
        *load_prompt_texts(PromptStyle.brief).heads.values(),
        load_prompt_texts(PromptStyle.brief).decision,
    ]
    assert set(systems) == {f"<|im_start|>system\n{text}<|im_end|>\n" for text in texts}
    assert min(systems.values()) > 100
    assert 0.5 < right / heard < 0.75


def test_the_inspector_says_who_is_wrong_before_its_answer() -> None:
    one = PROBLEMS[2]
    steps = steps_of(one)
    now = (spoken(0, steps), spoken(2, steps))
    before = (make_agent_reply(1, ROLES[1], "The answer is 1"),)
    assert build_agent_messages(Role.inspector, PromptStyle.brief, one.question, now, before)
    assert build_decision_messages(PromptStyle.brief, one.question, now)
    lines = reply(Role.inspector, steps, now, before).splitlines()
    assert lines[-2:] == ["1 is correct. 3 is correct. 2 is wrong.", f"The answer is {one.gold}"]
    assert reply(Role.inspector, steps, (), ()) == written_out(steps)


@pytest.mark.thorough
def test_a_short_training_writes_adapter_and_card(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.embedded_model.team", "--steps", "2", "--card-problems", "1"]
    done = warm_process.complete([*command, "--output", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "lora_team" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded"
    card = json.loads((tmp_path / "card_team.json").read_text())
    assert card["training"]["first_loss"] > 0
    assert set(card["scores"]) == {"hard", "hard5"}
    assert {score["n"] for by in card["scores"].values() for score in by.values()} == {1}
