"""Tool calls of Llama 3.1 and 3.3: JSON objects separated by semicolons, optionally after a marker token.

{"name": "f", "parameters": {"a": 1}}
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    MalformedToolCall,
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_call_object,
    parse_call_object,
    parse_json_at,
)
from runner_engine.tool_calls.forms import json as plain_json
from runner_engine.tool_calls.grammar_rules import NO_JSON, build_json_tool_call_rule, build_repeat_rule
from runner_engine.tool_calls.scanning import count_characters_unless_marker_begins

TOKEN = "<|python_tag|>"
MARKS = ((TOKEN,), ('{"name": function name, "parameters"',))
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:
    """Parse the tool calls of an answer that consists only of tool calls. Other answers are plain text."""
    has_token, plain = TOKEN in answer, answer.strip().removeprefix(TOKEN).strip()
    if TOKEN in plain:
        raise MalformedToolCall(f"text before {TOKEN}")
    if not plain.startswith("{"):
        if has_token:
            raise MalformedToolCall(f"no JSON behind {TOKEN}")
        return plain_json.parse_answer(answer, schemas)
    calls, at = [], 0
    while plain[at:].strip():
        value, at = parse_json_at(plain, at)
        calls.append(parse_call_object(value, argument_keys=("parameters", "arguments")))
        rest = plain[at:].lstrip()
        if rest and not rest.startswith((";", "{")):
            raise MalformedToolCall(f"text behind a call: {rest[:40]!r}")
        at = len(plain) - len(rest.removeprefix(";"))
    return ParsedAnswer(tuple(calls))


def format_calls(calls: Sequence[ToolCall]) -> str:
    """Format tool calls, separated by semicolons."""
    return "; ".join(format_call_object(call, "parameters") for call in calls)


def count_plain_prefix(answer: str) -> int:
    """Return 0 if the partial answer may become tool calls, otherwise the answer's length."""
    return count_characters_unless_marker_begins(answer, TOKEN, "{", "[", "```")


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    many = build_repeat_rule("call", "; ", allow_multiple)
    rules = build_json_tool_call_rule(schemas, "parameters")
    return f'calls: {many}\nanswer: "" | calls | {NO_JSON}\n{rules}'
