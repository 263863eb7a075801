"""LFM2: a list of calls as Python writes them, between tokens, with text around it.

<|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall
from runner_engine.tool_calls.forms import pythonic
from runner_engine.tool_calls.python_calls import python_calls, written_calls
from runner_engine.tool_calls.rules import NO_PYTHON, python_list, quoted
from runner_engine.tool_calls.scanning import before_marks, between_marks, up_to

START, END = "<|tool_call_start|>", "<|tool_call_end|>"
MARKS = ((START,), ("<|tool_list_start|>",))
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:
    """Return the calls between the tokens; without any of them, those of an answer that is nothing
    but the list."""
    if START not in text and END not in text:
        return pythonic.read(text, schemas)
    calls: list[ToolCall] = []

    def block(start: int) -> int:
        written, end = up_to(text, start, END)
        calls.extend(python_calls(written.strip()))
        return end

    said = between_marks(text, START, END, block)
    return Reading(tuple(calls), said)


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls as one list."""
    return f"{START}{written_calls(calls)}{END}"


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return min(pythonic.free(text), before_marks(text, START, END))


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""
    return f"""%mark start_mark {quoted(START)}
%mark end_mark {quoted(END)}
calls: start_mark list end_mark
answer: "" | {NO_PYTHON} | to_start_mark list end_mark
{python_list(schemas, several, "lfm2")}"""
