"""Teams whose answers are letters of choices: what they are told, and which letter of a reply
counts."""

from __future__ import annotations

import re

import pytest

from runner.options.agents.agent_prompts import (
    build_agent_messages,
    build_decision_messages,
    build_system_message,
    extract_agent_answer,
    make_agent_reply,
)
from runner.options.agents.keys import PromptStyle, Role
from runner.options.agents.wording import load_prompt_texts
from runner.sandbox.sandbox import CodeOutcome, CodeStatus, Sandbox

QUESTION = "Which colour has the sky?\nA. green\nB. blue"


@pytest.mark.parametrize(
    ("text", "whole", "cut_off"),
    [
        ("The sky is blue.\nThe answer is B", "B", None),
        ("The answer is (B), because A is the colour of grass: A.", "B", None),
        ("A or B?\n#### B\nAnd so A.", "B", "B"),
        ("So it is \\boxed{C}, and not D.", "C", None),
        ("Not A, so B.", "B", None),
        ("A blue one. I think so.", None, None),
        ("", None, None),
    ],
)
def test_a_marked_letter_counts_before_the_last_one(
    text: str, whole: str | None, cut_off: str | None
) -> None:
    assert extract_agent_answer(Role.inspector, text, expects_letter=True) == whole
    assert extract_agent_answer(Role.inspector, text, is_complete=False, expects_letter=True) == cut_off
    assert extract_agent_answer(None, text, expects_letter=True) == whole
    program = CodeOutcome("A", CodeStatus.ok)
    assert extract_agent_answer(Role.programming_expert, text, program, expects_letter=True) == "A", (
        "what it came to, not what it says"
    )


@pytest.mark.parametrize("domain", PromptStyle)
def test_all_are_told_to_give_a_letter_and_none_a_number(domain: PromptStyle) -> None:
    said = make_agent_reply(1, Role.inspector, "The sky is blue.\nThe answer is B", expects_letter=True)
    for role in Role:
        system, user = build_agent_messages(role, domain, QUESTION, [said], [], expects_letter=True)
        assert "letter" in system.content
        assert "a number" not in system.content
        assert QUESTION in user.content
        assert ("The sky" in user.content) == (not role.hears_numbers)
        assert "B." in user.content.replace(QUESTION, "") or not role.hears_numbers, "a hint is a letter"
    system, user = build_decision_messages(domain, QUESTION, [said], expects_letter=True)
    assert "letter" in system.content
    assert "The answer is B" in user.content


@pytest.mark.parametrize("domain", PromptStyle)
def test_numbers_are_asked_for_as_ever(domain: PromptStyle) -> None:
    assert (
        load_prompt_texts(domain).heads.keys()
        == load_prompt_texts(domain, expects_letter=True).heads.keys()
        == set(Role)
    )
    for role in Role:
        assert build_system_message(role, domain) != build_system_message(role, domain, expects_letter=True)
        assert "letter" not in build_system_message(role, domain)


def test_the_worked_examples_are_right() -> None:
    sandbox, answers = Sandbox(expects_letter=True), []
    for role, examples in load_prompt_texts(PromptStyle.gsm8k, expects_letter=True).examples.items():
        for question, reply in (it.values() for it in examples):
            code = sandbox.run_program(reply) if role.writes_code else None
            answer = extract_agent_answer(role, reply, code, expects_letter=True)
            assert f"\n{answer}. " in question, "it is the letter of a choice"
            answers.append(answer)
            for term, value in re.findall(r"((?:[\d.]+ [+*] )+[\d.]+) = ([\d.]+\b)", reply):
                assert sandbox.run_program(f"answer = 'B' if {term} == {value} else None").answer == "B"
    assert answers == ["B", "C", "C"]
