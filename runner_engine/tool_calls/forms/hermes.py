"""Tool calls of Hermes, Qwen 2.5, Qwen 3 and many other models: JSON objects between tags.

<tool_call>
{"name": "f", "arguments": {"a": 1}}
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_call_object,
    parse_call_object,
    parse_json_at,
)
from runner_engine.tool_calls.grammar_rules import TEXT, build_json_tool_call_rule, quote_grammar_literal
from runner_engine.tool_calls.scanning import (
    count_characters_before_first_marker,
    read_blocks_and_outside_text,
    skip_expected_marker,
)

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MARKS = ((OPENING,),)
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    """Parse the tool calls between tags.

    Each tag must be closed, and may contain a list of calls (SmolLM2).
    """
    calls: list[ToolCall] = []

    def parse_call_at(start: int) -> int:
        value, end = parse_json_at(answer, start)
        calls.extend(parse_call_object(one) for one in (value if isinstance(value, list) else [value]))
        return skip_expected_marker(answer, end, CLOSING)

    said = read_blocks_and_outside_text(answer, OPENING, CLOSING, parse_call_at)
    return ParsedAnswer(tuple(calls), said)


def format_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(f"{OPENING}\n{format_call_object(call)}\n{CLOSING}" for call in calls)


def count_plain_prefix(answer: str) -> int:
    return count_characters_before_first_marker(answer, OPENING, CLOSING)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    more = f'("\\n" {"tagged"})*' if allow_multiple else ""
    return f"""%mark opening {quote_grammar_literal(OPENING)}
%mark closing {quote_grammar_literal(CLOSING)}
calls: tagged {more}
answer: {TEXT} | to_opening body {more}
tagged: opening body
body: "\\n" call "\\n" closing
{build_json_tool_call_rule(schemas)}"""
