"""Tool calls of GLM 4.5 and later: the function's name, then tags with each parameter's name and value.

<tool_call>f
<arg_key>a</arg_key>
<arg_value>1</arg_value>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.tool_calls.calls import (
    MalformedToolCall,
    ParsedAnswer,
    Schemas,
    ToolCall,
    get_parameter_types,
)
from runner_engine.tool_calls.grammar_rules import (
    TEXT,
    build_alternatives_rule,
    build_parameter_rules,
    build_plain_value_rule,
    quote_grammar_literal,
)
from runner_engine.tool_calls.plain_values import format_plain_value, parse_plain_value
from runner_engine.tool_calls.scanning import (
    count_characters_before_first_marker,
    read_blocks_and_outside_text,
    read_until_marker,
    skip_expected_marker,
)

OPENING, CLOSING = "<tool_call>", "</tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"
MARKS = ((KEY, VALUE),)
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:
    calls: list[ToolCall] = []

    def parse_call_at(start: int) -> int:
        ends = [at for mark in (KEY, CLOSING) if (at := answer.find(mark, start)) >= 0]
        name, at = answer[start : min(ends, default=start)].strip(), min(ends, default=start)
        if not name or "\n" in name:
            raise MalformedToolCall("a call has no name")
        types, arguments = get_parameter_types(schemas, name), dict[str, Any]()
        while answer[at:].lstrip().startswith(KEY):
            key, at = read_until_marker(answer, skip_expected_marker(answer, at, KEY), KEY_END)
            value, at = read_until_marker(answer, skip_expected_marker(answer, at, VALUE), VALUE_END)
            if key.strip() in arguments:
                raise MalformedToolCall(f"the parameter {key.strip()} stands twice")
            arguments[key.strip()] = parse_plain_value(value, types.get(key.strip()))
        calls.append(ToolCall(name, arguments))
        return skip_expected_marker(answer, at, CLOSING)

    said = read_blocks_and_outside_text(answer, OPENING, CLOSING, parse_call_at)
    return ParsedAnswer(tuple(calls), said)


def format_calls(calls: Sequence[ToolCall]) -> str:
    written = []
    for call in calls:
        pairs = [
            f"{KEY}{key}{KEY_END}\n{VALUE}{format_plain_value(value)}{VALUE_END}\n"
            for key, value in call.arguments.items()
        ]
        written.append(f"{OPENING}{call.name}\n{''.join(pairs)}{CLOSING}")
    return "\n".join(written)


def count_plain_prefix(answer: str) -> int:
    return count_characters_before_first_marker(answer, OPENING, CLOSING)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    def build_value_rule(name: str, schema: Any) -> str:
        written = build_plain_value_rule("glm", name, schema, "value_end", VALUE_END)
        return f'key {quote_grammar_literal(name)} key_end "\\n" value {written} "\\n"'

    rules = [build_parameter_rules(at, one, "glm", build_value_rule) for at, one in enumerate(schemas)]
    names = [quote_grammar_literal(f"{one['name']}\n") for one in schemas]
    calls = (f"{name} parameters_{at}" for at, name in enumerate(names))
    more = '("\\n" opening body)*' if allow_multiple else ""
    marks = {
        "opening": OPENING,
        "closing": CLOSING,
        "key": KEY,
        "key_end": KEY_END,
        "value": VALUE,
        "value_end": VALUE_END,
    }
    return "\n".join(
        [
            *(f"%mark {name} {quote_grammar_literal(mark)}" for name, mark in marks.items()),
            f"calls: opening body {more}",
            f"answer: {TEXT} | to_opening body {more}",
            "body: call closing",
            build_alternatives_rule("call", calls),
            *rules,
        ]
    )
