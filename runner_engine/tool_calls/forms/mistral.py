"""Tool calls of Mistral after a marker token.

A JSON list follows the token, or a name and arguments from tokenizer v3 on.

[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]
[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{"b": "x"}
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    MalformedToolCall,
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_arguments,
    parse_call_arguments,
    parse_call_object,
    parse_json_at,
)
from runner_engine.tool_calls.grammar_rules import (
    TEXT,
    build_alternatives_rule,
    build_json_rule,
    build_json_tool_call_rule,
    build_repeat_rule,
    get_arguments_schema,
    quote_grammar_literal,
)
from runner_engine.tool_calls.scanning import count_characters_before_first_marker

TOKEN, ARGUMENTS, IDENTIFIER = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKS = ((TOKEN,),)
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    """Parse the tool calls at the end of an answer, which follow the answer's text."""
    said, *parts = answer.split(TOKEN)
    calls = [call for part in parts for call in _parse_tool_calls_after_marker(part.strip())]
    return ParsedAnswer(tuple(calls), said.strip())


def _parse_tool_calls_after_marker(text: str) -> list[ToolCall]:
    """Parse the tool calls after one marker token."""
    if text.startswith("["):
        value, end = parse_json_at(text, 0)
        _require_end_of_text(text, end)
        return [parse_call_object(one) for one in value]
    begin = text.find("{")
    if begin < 0:
        raise MalformedToolCall(f"the arguments are missing after {TOKEN}{text[:40]}")
    name = text[:begin].strip().removesuffix(ARGUMENTS).partition(IDENTIFIER)[0].strip()
    if not name or any(character.isspace() for character in name):
        raise MalformedToolCall(f"the function name is missing after {TOKEN}")
    value, end = parse_json_at(text, begin)
    _require_end_of_text(text, end)
    return [ToolCall(name, parse_call_arguments(name, value))]


def _require_end_of_text(text: str, end: int) -> None:
    if text[end:].strip():
        raise MalformedToolCall(f"text behind a call: {text[end:].strip()[:40]!r}")


def format_calls(calls: Sequence[ToolCall]) -> str:
    return "".join(f"{TOKEN}{call.name}{ARGUMENTS}{format_arguments(call)}" for call in calls)


def count_plain_prefix(answer: str) -> int:
    return count_characters_before_first_marker(answer, TOKEN)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:
    is_old = ARGUMENTS not in (template or ARGUMENTS)
    if is_old:
        body, rules = (
            f'"[" {build_repeat_rule("call", ", ", allow_multiple)} "]"',
            build_json_tool_call_rule(schemas),
        )
        more = ""
    else:
        calls = (
            f"{quote_grammar_literal(one['name'])} arguments {build_json_rule(get_arguments_schema(one))}"
            for one in schemas
        )
        body, rules = "call", build_alternatives_rule("call", calls)
        more = "(token call)*" if allow_multiple else ""
    return f"""%mark token {quote_grammar_literal(TOKEN)}
%mark arguments {quote_grammar_literal(ARGUMENTS)}
calls: token {body} {more}
answer: {TEXT} | to_token {body} {more}
{rules}"""
