"""Hermes, Qwen 2.5 and 3, and many others: JSON between tags, with text around them.

<tool_call>
{"name": "f", "arguments": {"a": 1}}
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall, call_of, json_at, written_call
from runner_engine.tool_calls.rules import TEXT, object_calls, quoted
from runner_engine.tool_calls.scanning import before_marks, behind, between_marks

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MARKS = ((OPENING,),)
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the calls between tags, each of which must be closed; SmolLM2 writes a list of them
    between two."""
    calls: list[ToolCall] = []

    def block(start: int) -> int:
        value, end = json_at(text, start)
        calls.extend(call_of(one) for one in (value if isinstance(value, list) else [value]))
        return behind(text, end, CLOSING)

    said = between_marks(text, OPENING, CLOSING, block)
    return Reading(tuple(calls), said)


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls, each between tags of its own."""
    return "\n".join(f"{OPENING}\n{written_call(call)}\n{CLOSING}" for call in calls)


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return before_marks(text, OPENING, CLOSING)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""
    more = f'("\\n" {"tagged"})*' if several else ""
    return f"""%mark opening {quoted(OPENING)}
%mark closing {quoted(CLOSING)}
calls: tagged {more}
answer: {TEXT} | to_opening body {more}
tagged: opening body
body: "\\n" call "\\n" closing
{object_calls(schemas)}"""
