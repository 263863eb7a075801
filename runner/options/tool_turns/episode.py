"""A scenario as it is played: the chat so far, the state of the environment, and how it ended.

An episode needs no engine. A stored answer has the same effect as a new one, so a scenario is judged again by
playing its stored answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

from runner.options.tool_turns.environments.base import CallFault, ToolResult
from runner.options.tool_turns.render.messages import format_malformed_call_message
from runner.options.tool_turns.scenarios import MISSING, Scenario, find_changed_paths, list_values
from runner.tasks.tools.keys import OfferMethod
from runner_base import Answer, FinishReason
from runner_base.tool_outcomes import ToolOutcome
from runner_engine import Message, Prompt, tool_calls
from runner_engine.sessions.tool_messages import write_tools_as_text

FAULTS = {
    CallFault.wrong_tool: ToolOutcome.wrong_tool,
    CallFault.wrong_arguments: ToolOutcome.wrong_arguments,
}


@dataclass(frozen=True)
class ChatForm:
    """How a model's chat offers tools and writes calls, and how many answers a model may give."""

    placement: OfferMethod
    call_format: tool_calls.ToolCallFormat
    max_turns: int
    system: str | None = None


class ExecutedCall(NamedTuple):
    """A call of the model, and its result."""

    call: tool_calls.ToolCall
    result: ToolResult


class Episode:
    """Plays one scenario: takes the model's answers, runs their calls and continues the chat."""

    def __init__(self, scenario: Scenario, chat_form: ChatForm) -> None:
        self.scenario, self.chat_form = scenario, chat_form
        self.state = deepcopy(scenario.state)
        self.calls: list[ExecutedCall] = []
        self.num_turns = self.num_malformed = 0
        self.has_ended = False
        self._ended_by: ToolOutcome | None = None  # a limit or an error; None: by an answer without calls
        self._last_fault: ToolOutcome | None = None  # of the last call; None: it had an effect
        self._turns = [Message("user", scenario.messages[0])]
        self._remaining_messages = [*scenario.messages[1:]]

    def build_prompt(self) -> Prompt:
        """Return the chat so far, with the tools of the environment."""
        form, schemas = self.chat_form, self.scenario.environment.schemas
        system = [Message("system", form.system)] if form.system else []
        messages = (*system, *self._turns)
        if form.placement is OfferMethod.template:
            return (Message.from_tool_schemas(schemas), *messages)
        return write_tools_as_text(messages, schemas, form.call_format)

    def add_answer(self, answer: Answer, error: str | None = None) -> None:
        """Run the calls of an answer. An answer without calls ends the turn of the model.

        An error after the first answer means that the chat no longer fits into the context.
        """
        if error is not None:
            self._end(ToolOutcome.context_exceeded)
            return
        self.num_turns += 1
        if answer.parts.is_open:
            self._end_by_answer(answer, "")
            return
        text = answer.parts.answer
        try:
            parsed = self.chat_form.call_format.parse_answer(text, self.scenario.environment.schemas)
        except tool_calls.MalformedToolCall as problem:
            if answer.finish_reason.is_cut_off:
                self._end(_name_limit(answer))
                return
            self.num_malformed += 1
            self._last_fault = ToolOutcome.malformed
            self._turns += [
                Message("assistant", text),
                Message("user", format_malformed_call_message(str(problem))),
            ]
        else:
            if not parsed.calls:
                self._end_by_answer(answer, parsed.text)
                return
            thinking = parsed.thinking or answer.parts.thinking or None
            self._run_tool_calls(parsed.calls, parsed.text, thinking)
        if self.num_turns >= self.chat_form.max_turns:
            self._end(ToolOutcome.too_many_turns)

    def _run_tool_calls(self, calls: Sequence[tool_calls.ToolCall], text: str, thinking: str | None) -> None:
        ids = [f"call{number:05d}" for number in range(len(self.calls), len(self.calls) + len(calls))]
        functions = [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call_id, call in zip(ids, calls, strict=True)
        ]
        self._turns.append(
            Message("assistant", text, thinking, calls=json.dumps(functions, ensure_ascii=False))
        )
        for call_id, call in zip(ids, calls, strict=True):
            result = self.scenario.environment.call_tool(self.state, call)
            self.calls.append(ExecutedCall(call, result))
            self._last_fault = None if result.fault is None else FAULTS.get(result.fault)
            self._turns.append(Message("tool", result.text, call_id=call_id, name=call.name))

    def _end_by_answer(self, answer: Answer, text: str) -> None:
        """Send the next message of the user, or end the scenario after the last one."""
        if answer.finish_reason.is_cut_off:
            self._end(_name_limit(answer))
        elif self._remaining_messages and self.num_turns < self.chat_form.max_turns:
            thinking = answer.parts.thinking or None
            self._turns += [
                Message("assistant", text, thinking),
                Message("user", self._remaining_messages.pop(0)),
            ]
        elif self._remaining_messages:
            self._end(ToolOutcome.too_many_turns)
        else:
            self._end(None if text.strip() else ToolOutcome.no_answer)

    def _end(self, outcome: ToolOutcome | None) -> None:
        self.has_ended, self._ended_by = True, outcome

    @property
    def has_reached_goal(self) -> bool:
        return self.scenario.environment.are_equal(self.state, self.scenario.goal)

    @property
    def outcome(self) -> ToolOutcome:
        """Outcome of an ended episode: `right`, or why the state is not the goal."""
        if not self.has_ended:
            return ToolOutcome.no_answer
        if self.has_reached_goal and self._ended_by is not ToolOutcome.too_many_turns:
            return ToolOutcome.right
        if self._ended_by not in (None, ToolOutcome.no_answer):
            return self._ended_by
        if not self.calls and not self.num_malformed:
            return self._ended_by or ToolOutcome.not_called
        values, known = list_values(self.state), self.scenario.values_changed_by_reference_calls
        changed = find_changed_paths(list_values(self.scenario.state), values)
        if not changed <= known.keys():
            return ToolOutcome.changed_other_state
        if self._last_fault is not None:
            return self._last_fault
        if any(values.get(path, MISSING) not in known[path] for path in changed):
            return ToolOutcome.wrong_arguments
        return ToolOutcome.gave_up


def _name_limit(answer: Answer) -> ToolOutcome:
    is_full = answer.finish_reason is FinishReason.context
    return ToolOutcome.context_exceeded if is_full else ToolOutcome.cut_off
