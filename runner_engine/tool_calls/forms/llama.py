"""Llama 3.1 and 3.3: an object of JSON, maybe behind a token; several are parted by semicolons.

{"name": "f", "parameters": {"a": 1}}
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    Malformed,
    Reading,
    Schemas,
    ToolCall,
    call_of,
    json_at,
    written_call,
)
from runner_engine.tool_calls.forms import json as plain_json
from runner_engine.tool_calls.rules import NO_JSON, object_calls, repeated
from runner_engine.tool_calls.scanning import unless_begun

TOKEN = "<|python_tag|>"
MARKS = ((TOKEN,), ('{"name": function name, "parameters"',))
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:
    """Return the calls of an answer that is nothing else; any other one only says something."""
    has_token, plain = TOKEN in text, text.strip().removeprefix(TOKEN).strip()
    if TOKEN in plain:
        raise Malformed(f"text before {TOKEN}")
    if not plain.startswith("{"):
        if has_token:
            raise Malformed(f"no JSON behind {TOKEN}")
        return plain_json.read(text, schemas)
    calls, at = [], 0
    while plain[at:].strip():
        value, at = json_at(plain, at)
        calls.append(call_of(value, keys=("parameters", "arguments")))
        rest = plain[at:].lstrip()
        if rest and not rest.startswith((";", "{")):
            raise Malformed(f"text behind a call: {rest[:40]!r}")
        at = len(plain) - len(rest.removeprefix(";"))
    return Reading(tuple(calls))


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls, parted by semicolons."""
    return "; ".join(written_call(call, "parameters") for call in calls)


def free(text: str) -> int:
    """Return 0 if an answer may be calls, which are all of it."""
    return unless_begun(text, TOKEN, "{", "[", "```")


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    many = repeated("call", "; ", several)
    rules = object_calls(schemas, "parameters")
    return f'calls: {many}\nanswer: "" | calls | {NO_JSON}\n{rules}'
