"""Plain JSON: the answer is nothing but a call or a list of calls, maybe in a block of code.

{"name": "f", "arguments": {"a": 1}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall, call_of, whole_json, written_call
from runner_engine.tool_calls.rules import NO_JSON, object_calls
from runner_engine.tool_calls.scanning import unless_begun

MARKS: tuple[tuple[str, ...], ...] = ()
IS_RAW = False
BLOCK = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n(.*)\n?```", re.DOTALL)


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the calls of an answer that is JSON; any other one only says something."""
    block = BLOCK.fullmatch(text.strip())
    plain = block[1].strip() if block else text.strip()
    if not plain.startswith(("{", "[")):
        return Reading((), text)
    value = whole_json(plain)
    values = value if isinstance(value, list) else [value]
    return Reading(tuple(call_of(one) for one in values))


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls as a list; one alone as an object."""
    written = [written_call(call) for call in calls]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def free(text: str) -> int:
    """Return 0 if an answer may be calls, which are all of it."""
    return unless_begun(text, "{", "[", "```")


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""
    many = 'call | "[" call (", " call)* "]"' if several else "call"
    return f'calls: {many}\nanswer: "" | calls | {NO_JSON}\n{object_calls(schemas)}'
