"""Models that call functions: all rightly, always the first one, or never."""

from __future__ import annotations

from collections.abc import Callable

from scripted import Reply

from runner.tasks.tools.cases import Case
from runner_base.result import FinishReason
from runner_engine.sessions import OfferedTools
from runner_engine.sessions.base import Request
from runner_engine.tool_calls import ToolCall, ToolCallFormat

Answers = Callable[[Request], Reply]


def right_calls(case: Case) -> list[ToolCall]:
    """Return the calls that are wanted, without what may be left out."""
    given = [
        (name, {key: values[0] for key, values in one.items() if "" not in values})
        for name, one in case.wanted
    ]
    return [ToolCall(name, arguments) for name, arguments in given]


def calling_rightly(cases: list[Case], form: ToolCallFormat) -> Answers:
    """Return what answers each question with the wanted calls, and with words where none is
    wanted."""

    def answer(request: Request) -> Reply:
        calls = right_calls(cases[int(request.id) % len(cases)])
        return form.format_calls(calls) if calls else "I can answer that myself.", FinishReason.stop

    return answer


def calling_the_first(form: ToolCallFormat) -> Answers:
    """Return what always calls the first function that is offered, without arguments."""

    def answer(request: Request) -> Reply:
        assert isinstance(request.prompt, tuple)
        offered = request.prompt[0]
        assert isinstance(offered, OfferedTools)
        return form.format_calls([ToolCall(offered.tools[0]["function"]["name"], {})]), FinishReason.stop

    return answer


def saying(text: str, reason: FinishReason = FinishReason.stop) -> Answers:
    """Return what always answers the same."""
    return lambda request: (text, reason)
