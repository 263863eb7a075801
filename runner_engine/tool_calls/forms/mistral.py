"""Mistral: a token, then a list of JSON; from the third tokenizer on, the name of each function and
its arguments.

[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]
[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{"b": "x"}
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    Malformed,
    Reading,
    Schemas,
    ToolCall,
    arguments_of,
    call_of,
    json_at,
    written_arguments,
)
from runner_engine.tool_calls.rules import (
    TEXT,
    alternatives,
    json_of,
    object_calls,
    parameters_of,
    quoted,
    repeated,
)
from runner_engine.tool_calls.scanning import before_marks

TOKEN, ARGUMENTS, IDENTIFIER = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKS = ((TOKEN,),)
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the calls; what is said stands before them."""
    said, *parts = text.split(TOKEN)
    calls = [call for part in parts for call in _calls(part.strip())]
    return Reading(tuple(calls), said.strip())


def _calls(part: str) -> list[ToolCall]:
    """Return the calls behind one token."""
    if part.startswith("["):
        value, end = json_at(part, 0)
        _end_of(part, end)
        return [call_of(one) for one in value]
    begin = part.find("{")
    if begin < 0:
        raise Malformed(f"no arguments behind {TOKEN}{part[:40]}")
    name = part[:begin].strip().removesuffix(ARGUMENTS).partition(IDENTIFIER)[0].strip()
    if not name or any(character.isspace() for character in name):
        raise Malformed(f"no name of a function behind {TOKEN}")
    value, end = json_at(part, begin)
    _end_of(part, end)
    return [ToolCall(name, arguments_of(name, value))]


def _end_of(part: str, end: int) -> None:
    if part[end:].strip():
        raise Malformed(f"text behind a call: {part[end:].strip()[:40]!r}")


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls as newer models write them."""
    return "".join(f"{TOKEN}{call.name}{ARGUMENTS}{written_arguments(call)}" for call in calls)


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return before_marks(text, TOKEN)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:
    is_old = ARGUMENTS not in (template or ARGUMENTS)
    if is_old:
        body, rules = f'"[" {repeated("call", ", ", several)} "]"', object_calls(schemas)
        more = ""
    else:
        calls = (f"{quoted(one['name'])} arguments {json_of(parameters_of(one))}" for one in schemas)
        body, rules = "call", alternatives("call", calls)
        more = "(token call)*" if several else ""
    return f"""%mark token {quoted(TOKEN)}
%mark arguments {quoted(ARGUMENTS)}
calls: token {body} {more}
answer: {TEXT} | to_token {body} {more}
{rules}"""
