"""Outcomes of questions that offer tools."""

from __future__ import annotations

from enum import StrEnum


class ToolOutcome(StrEnum):
    """Result of comparing an answer's tool calls with the expected calls, or a final state with the goal.

    Only `right` and `nothing_called` are correct.
    """

    right = "right"
    nothing_called = "nothing_called"  # where nothing should be
    wrong_arguments = "wrong_arguments"  # of the right functions
    wrong_count = "wrong_count"  # of calls, all of functions that were wanted
    wrong_tool = "wrong_tool"
    malformed = "malformed"  # it begins as a call and is none
    cut_off = "cut_off"
    not_called = "not_called"  # where something should be: prose
    no_answer = "no_answer"  # it is empty, or ended in an error
    called_without_need = "called_without_need"
    # of scenarios with several turns
    changed_other_state = "changed_other_state"  # that the goal leaves as it was
    gave_up = "gave_up"  # before the goal was reached
    too_many_turns = "too_many_turns"
    context_exceeded = "context_exceeded"


RIGHT = frozenset({ToolOutcome.right, ToolOutcome.nothing_called})
_RIGHT_TOOLS = frozenset({ToolOutcome.right, ToolOutcome.wrong_arguments})
_UNFINISHED = {
    ToolOutcome.changed_other_state,
    ToolOutcome.gave_up,
    ToolOutcome.too_many_turns,
    ToolOutcome.context_exceeded,
}
_WHOLE_CALLS = _RIGHT_TOOLS | _UNFINISHED | {ToolOutcome.wrong_tool, ToolOutcome.wrong_count}
# The steps of a question that needs a call, each of which the next one needs: outcomes that have
# taken it
STEPS: dict[str, frozenset[ToolOutcome]] = {
    "well_formed": _WHOLE_CALLS,
    "right_tool": _RIGHT_TOOLS,
    "right_arguments": frozenset({ToolOutcome.right}),
}
WITHOUT_NEED = "nothing_called"  # the step of a question that needs no call
