"""Qwen3-Coder, Qwen3.5 and others: a tag for each function and each parameter, whose value is plain
text.

<tool_call>
<function=f>
<parameter=a>
1
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.tool_calls.calls import Malformed, Reading, Schemas, ToolCall, parameter_types
from runner_engine.tool_calls.plain_values import typed, untyped
from runner_engine.tool_calls.scanning import behind, between_marks, up_to

OUTER, OUTER_END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MARKS = ((FUNCTION, PARAMETER),)
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:
    """Return the calls; Qwen3-Coder often leaves the outer opening tag out."""
    calls: list[ToolCall] = []

    def block(start: int) -> int:
        call, end = _function(text, start, schemas)
        calls.append(call)
        return end

    if text.count(OUTER) > text.count(FUNCTION):
        raise Malformed(f"{OUTER} without {FUNCTION}")
    said = between_marks(text, FUNCTION, FUNCTION_END, block)
    if said.count(OUTER) > said.count(OUTER_END):
        raise Malformed(f"{OUTER_END} is missing")
    return Reading(tuple(calls), said.replace(OUTER, "").replace(OUTER_END, "").strip())


def _function(text: str, start: int, schemas: Schemas) -> tuple[ToolCall, int]:
    """Return the call behind the mark of a function, and the place behind its end."""
    name, at = up_to(text, start, ">")
    types, arguments = parameter_types(schemas, name.strip()), dict[str, Any]()
    while text[at:].lstrip().startswith(PARAMETER):
        key, at = up_to(text, behind(text, at, PARAMETER), ">")
        value, at = up_to(text, at, PARAMETER_END)
        if key.strip() in arguments:
            raise Malformed(f"the parameter {key.strip()} stands twice")
        arguments[key.strip()] = typed(value, types.get(key.strip()))
    if not name.strip():
        raise Malformed("a function has no name")
    return ToolCall(name.strip(), arguments), behind(text, at, FUNCTION_END)


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls, each in tags of its own."""
    written = []
    for call in calls:
        parameters = "".join(
            f"{PARAMETER}{key}>\n{untyped(value)}\n{PARAMETER_END}\n"
            for key, value in call.arguments.items()
        )
        written.append(f"{OUTER}\n{FUNCTION}{call.name}>\n{parameters}{FUNCTION_END}\n{OUTER_END}")
    return "\n".join(written)
