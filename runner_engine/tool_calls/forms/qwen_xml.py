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
from runner_engine.tool_calls.rules import TEXT, alternatives, one_by_one, plain_value, quoted
from runner_engine.tool_calls.scanning import before_marks, behind, between_marks, up_to

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
            f"{PARAMETER}{key}>\n{untyped(value)}\n{PARAMETER_END}\n" for key, value in call.arguments.items()
        )
        written.append(f"{OUTER}\n{FUNCTION}{call.name}>\n{parameters}{FUNCTION_END}\n{OUTER_END}")
    return "\n".join(written)


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return before_marks(text, OUTER, OUTER_END, FUNCTION, FUNCTION_END)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""
    end = f"\n{PARAMETER_END}\n"

    def value(name: str, schema: Any) -> str:
        begin = quoted(f"{PARAMETER}{name}>\n")
        return f"{begin} {plain_value('qwen_xml', name, schema, 'value_end', end)}"

    rules = [one_by_one(at, one, "qwen_xml", value) for at, one in enumerate(schemas)]
    names = [quoted(f"{one['name']}>\n") for one in schemas]
    calls = (f"{name} parameters_{at}" for at, name in enumerate(names))
    more = '("\\n" outer body)*' if several else ""
    return "\n".join(
        [
            f"%mark outer {quoted(OUTER)}",
            f"%mark outer_end {quoted(OUTER_END)}",
            f"%mark function {quoted(FUNCTION)}",
            f"%mark value_end {quoted(end)}",
            f"calls: outer body {more}",
            # the model may leave the outer tag out, and that is a call, too
            f"answer: {TEXT} | to_outer body {more} | to_function rest {more}",
            'body: "\\n" function rest',
            f'rest: call {quoted(FUNCTION_END)} "\\n" outer_end',
            alternatives("call", calls),
            *rules,
        ]
    )
