"""Scenarios played with transcripts that a test writes down: a right one, and each kind of wrong one."""

from __future__ import annotations

from typing import Any

import pytest
from playing import DONE, damage_last_call, write_answers

from runner.options.tool_turns.episode import ChatForm, Episode
from runner.options.tool_turns.generated_scenarios import generate_scenarios
from runner.options.tool_turns.keys import LEVELS
from runner.options.tool_turns.scenarios import Scenario
from runner.tasks.tools.keys import OfferMethod
from runner_base.result import Answer, FinishReason
from runner_base.tool_outcomes import ToolOutcome
from runner_engine.sessions.base import Message, OfferedTools
from runner_engine.tool_calls import NAMES, ToolCall, import_tool_call_format

JSON = import_tool_call_format("json")
FORM = ChatForm(OfferMethod.template, JSON, max_turns=5)
HOUSE = Scenario(
    "0",
    "house",
    "error",
    "0",
    {
        "alarm": False,
        "rooms": {
            "hall": {"temperature": 18, "light": False, "window_open": True},
            "office": {"temperature": 19, "light": True, "window_open": False},
        },
    },
    ("Heat the hall to 21 degrees.",),
    (
        (
            ToolCall("set_window", {"room": "hall", "is_open": False}),
            ToolCall("set_temperature", {"room": "hall", "degrees": 21}),
        ),
    ),
)
CLOSE, HEAT = HOUSE.calls[0]
LOOK = ToolCall("get_room", {"room": "hall"})
LIGHT = ToolCall("set_light", {"room": "office", "is_on": False})
LIGHT_BACK = ToolCall("set_light", {"room": "office", "is_on": True})
STOP, LENGTH, CONTEXT = FinishReason.stop, FinishReason.length, FinishReason.context
Answers = list[str | tuple[str, FinishReason]]


def write(*calls: ToolCall) -> str:
    return JSON.format_calls(calls)


def play(answers: Answers, scenario: Scenario = HOUSE, form: ChatForm = FORM) -> Episode:
    """Play a transcript, and check that the episode ends with its last answer."""
    episode = Episode(scenario, form)
    for given in answers:
        assert not episode.has_ended
        text, reason = (given, STOP) if isinstance(given, str) else given
        episode.add_answer(Answer.from_text(text, [], reason))
    assert episode.has_ended
    return episode


TRANSCRIPTS: list[tuple[ToolOutcome, Answers]] = [
    (ToolOutcome.right, [write(CLOSE), write(HEAT), DONE]),
    (ToolOutcome.right, [write(CLOSE, HEAT), DONE]),
    (ToolOutcome.right, [write(HEAT), write(CLOSE), write(HEAT), DONE]),  # the tool refuses at first
    (ToolOutcome.right, [write(LOOK), write(LIGHT, LIGHT_BACK), write(CLOSE, HEAT), DONE]),  # another path
    (ToolOutcome.right, ["[nonsense", write(CLOSE, HEAT), DONE]),
    (ToolOutcome.right, [write(CLOSE, HEAT), ("That was", LENGTH)]),
    (ToolOutcome.right, [write(CLOSE, HEAT), ""]),
    (ToolOutcome.right, [(write(CLOSE, HEAT), LENGTH), DONE]),
    (ToolOutcome.not_called, [DONE]),
    (ToolOutcome.no_answer, [" "]),
    (ToolOutcome.cut_off, [("I would", LENGTH)]),
    (ToolOutcome.cut_off, [write(CLOSE), (write(HEAT)[:-9], LENGTH)]),
    (ToolOutcome.cut_off, [("<think>Well", LENGTH)]),
    (ToolOutcome.context_exceeded, [write(CLOSE), ("Now", CONTEXT)]),
    (ToolOutcome.malformed, [write(CLOSE), "[nonsense", DONE]),
    (ToolOutcome.wrong_tool, [write(ToolCall("heat", {"room": "hall"})), DONE]),
    (ToolOutcome.wrong_arguments, [write(ToolCall("set_window", {"room": "hall"})), DONE]),
    (ToolOutcome.wrong_arguments, [write(CLOSE), write(ToolCall("set_temperature", {"room": "hall", "degrees": 22})), DONE]),
    (ToolOutcome.gave_up, [write(HEAT), DONE]),
    (ToolOutcome.gave_up, [write(CLOSE), DONE]),
    (ToolOutcome.gave_up, [write(LOOK), DONE]),
    (ToolOutcome.changed_other_state, [write(CLOSE, HEAT, LIGHT), DONE]),
    (ToolOutcome.too_many_turns, [write(LOOK)] * 5),
    (ToolOutcome.too_many_turns, [write(CLOSE, HEAT)] * 5),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "answers"), TRANSCRIPTS)
def test_the_final_state_decides(outcome: ToolOutcome, answers: Answers) -> None:
    assert play(answers).outcome is outcome


def test_an_error_of_a_later_prompt_means_that_the_context_is_full() -> None:
    episode = Episode(HOUSE, FORM)
    episode.add_answer(Answer(write(LOOK), [], STOP))
    episode.add_answer(Answer("", [], FinishReason.error), "the prompt has 9 tokens")
    assert (episode.has_ended, episode.outcome, episode.num_turns) == (True, ToolOutcome.context_exceeded, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_calls_of_all_scenarios_are_right_and_a_damaged_call_is_wrong(name: str) -> None:
    form = ChatForm(OfferMethod.template, import_tool_call_format(name), max_turns=10)
    for scenario in generate_scenarios(40, LEVELS, 0):
        right = play([*write_answers(scenario.calls, form.call_format)], scenario, form)
        assert right.outcome is ToolOutcome.right, (scenario.family, right.calls)
        assert len(right.calls) == sum(map(len, scenario.calls))
        wrong = play([*write_answers(damage_last_call(scenario.calls), form.call_format)], scenario, form)
        assert wrong.outcome not in (ToolOutcome.right, ToolOutcome.not_called), scenario.family


def test_an_agent_that_does_nothing_reaches_no_goal() -> None:
    for scenario in generate_scenarios(40, LEVELS, 0):
        assert play([DONE] * len(scenario.messages), scenario).outcome is ToolOutcome.not_called


def test_results_reach_the_model_in_the_role_tool() -> None:
    episode = Episode(HOUSE, FORM)
    episode.add_answer(Answer.from_text(f"<think>First.</think>{write(HEAT)}", [], STOP))
    prompt = episode.build_prompt()
    assert isinstance(prompt, tuple)
    offered, user, assistant, result = prompt
    assert isinstance(offered, OfferedTools)
    assert [tool["function"]["name"] for tool in offered.tools] == [*HOUSE.environment.functions]
    assert user == Message("user", HOUSE.messages[0])
    assert isinstance(assistant, Message)
    call = {"name": "set_temperature", "arguments": {"room": "hall", "degrees": 21}}
    assert assistant.to_dict() == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "First.",
        "tool_calls": [{"id": "call00000", "type": "function", "function": call}],
    }
    assert isinstance(result, Message)
    assert (result.role, result.call_id, result.name) == ("tool", "call00000", "set_temperature")
    assert "window" in result.content


def test_the_second_message_follows_the_answer_to_the_first() -> None:
    scenario = next(it for it in generate_scenarios(40, LEVELS, 0) if it.level == "two_messages")
    episode = Episode(scenario, ChatForm(OfferMethod.system, JSON, 5, "Be brief."))
    for text in write_answers(scenario.calls[:1], JSON):
        episode.add_answer(Answer(text, [], STOP))
    roles = [(turn.role, turn.content) for turn in episode.build_prompt() if isinstance(turn, Message)]
    assert [role for role, _ in roles] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert roles[0][1].startswith("Be brief.")
    assert (roles[1][1], roles[-1][1]) == scenario.messages
    assert roles[2][1] == write(scenario.calls[0][0])


@pytest.mark.parametrize("answers", [[DONE], [write(LOOK), DONE]])
def test_the_limit_of_turns_counts_all_messages(answers: list[Any]) -> None:
    scenario = next(it for it in generate_scenarios(40, LEVELS, 0) if it.level == "two_messages")
    form = ChatForm(OfferMethod.template, JSON, len(answers))
    known = [write(scenario.calls[0][0]) if text != DONE else text for text in answers]
    assert play(known, scenario, form).outcome is ToolOutcome.too_many_turns
