"""Tool calls in plain JSON. The whole answer is one call or a list of calls, optionally in a code block.

{"name": "f", "arguments": {"a": 1}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_call_object,
    parse_call_object,
    parse_single_json_value,
)
from runner_engine.tool_calls.grammar_rules import NO_JSON, build_json_tool_call_rule
from runner_engine.tool_calls.scanning import count_characters_unless_marker_begins

MARKS: tuple[tuple[str, ...], ...] = ()
IS_RAW = False
BLOCK = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n(.*)\n?```", re.DOTALL)


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    """Parse the tool calls of an answer that consists of JSON. Any other answer counts as plain text."""
    block = BLOCK.fullmatch(answer.strip())
    plain = block[1].strip() if block else answer.strip()
    if not plain.startswith(("{", "[")):
        return ParsedAnswer((), answer)
    value = parse_single_json_value(plain)
    values = value if isinstance(value, list) else [value]
    return ParsedAnswer(tuple(parse_call_object(one) for one in values))


def format_calls(calls: Sequence[ToolCall]) -> str:
    """Format several tool calls as a JSON list, and a single call as a JSON object."""
    written = [format_call_object(call) for call in calls]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def count_plain_prefix(answer: str) -> int:
    """Return 0 if the partial answer may become tool calls, otherwise the answer's length."""
    return count_characters_unless_marker_begins(answer, "{", "[", "```")


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    many = 'call | "[" call (", " call)* "]"' if allow_multiple else "call"
    return f'calls: {many}\nanswer: "" | calls | {NO_JSON}\n{build_json_tool_call_rule(schemas)}'
