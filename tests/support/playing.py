"""Agents that play scenarios by their reference calls: rightly, or with a damaged last call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripted import Reply

from runner.options.tool_turns.scenarios import Calls, Scenario
from runner_base.result import FinishReason
from runner_engine.sessions.base import Request
from runner_engine.tool_calls import ToolCall, ToolCallFormat

DONE = "That is done."


def damage(call: ToolCall) -> ToolCall:
    """Change the last argument of a call."""
    *_, key = call.arguments
    value = call.arguments[key]
    changed = f"{value}x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
    return ToolCall(call.name, {**call.arguments, key: changed})


def damage_last_call(calls: Sequence[Calls]) -> tuple[Calls, ...]:
    """Damage the last call of a scenario."""
    *others, last = calls
    return (*others, (*last[:-1], damage(last[-1])))


def write_answers(calls: Sequence[Calls], form: ToolCallFormat) -> list[str]:
    """Return the answers of an agent: one for each call, and words after the calls for each message."""
    return [text for some in calls for text in (*(form.format_calls([call]) for call in some), DONE)]


def playing(
    scenarios: Sequence[Scenario], form: ToolCallFormat, is_damaged: bool = False
) -> Callable[[Request], Reply]:
    """Return what answers each prompt of a scenario, whose id is SCENARIO/TURN."""
    answers = [
        write_answers(damage_last_call(scenario.calls) if is_damaged else scenario.calls, form)
        for scenario in scenarios
    ]

    def answer(request: Request) -> Reply:
        number, _, turn = str(request.id).partition("/")
        return answers[int(number)][int(turn)], FinishReason.stop

    return answer


def serving(
    scenarios: Sequence[Scenario], form: ToolCallFormat, is_damaged: bool = False
) -> Callable[[Mapping[str, Any]], str]:
    """Return what answers the requests of an API by the first message of the user."""
    answers = {
        scenario.messages[0]: write_answers(
            damage_last_call(scenario.calls) if is_damaged else scenario.calls, form
        )
        for scenario in scenarios
    }

    def answer(body: Mapping[str, Any]) -> str:
        first, *others = body["messages"][1:]
        turn = len([message for message in others if message["role"] == "assistant"])
        return answers[str(first["content"])][turn]

    return answer
