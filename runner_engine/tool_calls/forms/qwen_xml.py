"""Tool calls of Qwen3-Coder, Qwen3.5 and others, with a tag per function and per parameter.

Parameter values are plain text.

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

OUTER, OUTER_END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MARKS = ((FUNCTION, PARAMETER),)
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:
    """Parse the tool calls of an answer.

    The outer opening tag is optional, because Qwen3-Coder often omits the tag.
    """
    calls: list[ToolCall] = []

    def parse_call_at(start: int) -> int:
        call, end = _parse_function_call(answer, start, schemas)
        calls.append(call)
        return end

    if answer.count(OUTER) > answer.count(FUNCTION):
        raise MalformedToolCall(f"{OUTER} without {FUNCTION}")
    said = read_blocks_and_outside_text(answer, FUNCTION, FUNCTION_END, parse_call_at)
    if said.count(OUTER) > said.count(OUTER_END):
        raise MalformedToolCall(f"{OUTER_END} is missing")
    return ParsedAnswer(tuple(calls), said.replace(OUTER, "").replace(OUTER_END, "").strip())


def _parse_function_call(answer: str, start: int, schemas: Schemas) -> tuple[ToolCall, int]:
    """Parse the tool call that follows a function's opening tag.

    Returns the call and its end position.
    """
    name, at = read_until_marker(answer, start, ">")
    types, arguments = get_parameter_types(schemas, name.strip()), dict[str, Any]()
    while answer[at:].lstrip().startswith(PARAMETER):
        key, at = read_until_marker(answer, skip_expected_marker(answer, at, PARAMETER), ">")
        value, at = read_until_marker(answer, at, PARAMETER_END)
        if key.strip() in arguments:
            raise MalformedToolCall(f"the parameter {key.strip()} stands twice")
        arguments[key.strip()] = parse_plain_value(value, types.get(key.strip()))
    if not name.strip():
        raise MalformedToolCall("a function has no name")
    return ToolCall(name.strip(), arguments), skip_expected_marker(answer, at, FUNCTION_END)


def format_calls(calls: Sequence[ToolCall]) -> str:
    written = []
    for call in calls:
        parameters = "".join(
            f"{PARAMETER}{key}>\n{format_plain_value(value)}\n{PARAMETER_END}\n"
            for key, value in call.arguments.items()
        )
        written.append(f"{OUTER}\n{FUNCTION}{call.name}>\n{parameters}{FUNCTION_END}\n{OUTER_END}")
    return "\n".join(written)


def count_plain_prefix(answer: str) -> int:
    return count_characters_before_first_marker(answer, OUTER, OUTER_END, FUNCTION, FUNCTION_END)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    end = f"\n{PARAMETER_END}\n"

    def build_value_rule(name: str, schema: Any) -> str:
        begin = quote_grammar_literal(f"{PARAMETER}{name}>\n")
        return f"{begin} {build_plain_value_rule('qwen_xml', name, schema, 'value_end', end)}"

    rules = [build_parameter_rules(at, one, "qwen_xml", build_value_rule) for at, one in enumerate(schemas)]
    names = [quote_grammar_literal(f"{one['name']}>\n") for one in schemas]
    calls = (f"{name} parameters_{at}" for at, name in enumerate(names))
    more = '("\\n" outer body)*' if allow_multiple else ""
    return "\n".join(
        [
            f"%mark outer {quote_grammar_literal(OUTER)}",
            f"%mark outer_end {quote_grammar_literal(OUTER_END)}",
            f"%mark function {quote_grammar_literal(FUNCTION)}",
            f"%mark value_end {quote_grammar_literal(end)}",
            f"calls: outer body {more}",
            # the model may leave the outer tag out, and that is a call, too
            f"answer: {TEXT} | to_outer body {more} | to_function rest {more}",
            'body: "\\n" function rest',
            f'rest: call {quote_grammar_literal(FUNCTION_END)} "\\n" outer_end',
            build_alternatives_rule("call", calls),
            *rules,
        ]
    )
