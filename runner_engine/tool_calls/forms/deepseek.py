"""Tool calls of DeepSeek V3, R1 and V3.1 between marker tokens.

Versions before V3.1 write the arguments in a JSON code block.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    MalformedToolCall,
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_arguments,
    parse_call_arguments,
    parse_single_json_value,
)
from runner_engine.tool_calls.grammar_rules import (
    TEXT,
    build_alternatives_rule,
    build_json_rule,
    get_arguments_schema,
    quote_grammar_literal,
)
from runner_engine.tool_calls.scanning import (
    count_characters_before_first_marker,
    read_blocks_and_outside_text,
    read_until_marker,
    skip_expected_marker,
)

ALL, ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
MARKS = ((ALL,),)
IS_RAW = False
IN_BLOCK = re.compile(r"([^\n]+)\n```json\n(.*)\n```", re.DOTALL)


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    calls: list[ToolCall] = []

    def read_block(start: int) -> int:
        while answer[start:].lstrip().startswith(CALL):
            content, start = read_until_marker(answer, skip_expected_marker(answer, start, CALL), CALL_END)
            calls.append(_parse_call(content))
        return skip_expected_marker(answer, start, ALL_END)

    said = read_blocks_and_outside_text(answer, ALL, ALL_END, read_block)
    if CALL in said or CALL_END in said:
        raise MalformedToolCall(f"a call outside of {ALL}")
    return ParsedAnswer(tuple(calls), said)


def _parse_call(content: str) -> ToolCall:
    before, mark, after = content.partition(SEPARATOR)
    if not mark:
        raise MalformedToolCall(f"{SEPARATOR} is missing")
    in_block = IN_BLOCK.fullmatch(after.strip())
    if before.strip() == "function" and in_block:
        name, arguments = in_block[1].strip(), in_block[2]
    else:
        name, arguments = before.strip(), after
    if not name:
        raise MalformedToolCall("a call has no name")
    return ToolCall(name, parse_call_arguments(name, parse_single_json_value(arguments)))


def format_calls(calls: Sequence[ToolCall]) -> str:
    """Format tool calls in the syntax of DeepSeek V3.1."""
    written = (f"{CALL}{call.name}{SEPARATOR}{format_arguments(call)}{CALL_END}" for call in calls)
    return f"{ALL}{''.join(written)}{ALL_END}"


def count_plain_prefix(answer: str) -> int:
    return count_characters_before_first_marker(answer, ALL, ALL_END, CALL, CALL_END)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:
    is_old = "```json" in (template or "")
    calls = []
    for schema in schemas:
        name, arguments = schema["name"], build_json_rule(get_arguments_schema(schema))
        if is_old:
            in_block = f"{name}\n```json\n"
            head, tail = (
                f'"function" separator {quote_grammar_literal(in_block)}',
                quote_grammar_literal("\n```"),
            )
        else:
            head, tail = f"{quote_grammar_literal(name)} separator", ""
        calls.append(f"{head} {arguments} {tail} call_end")
    between = '"\\n"' if is_old else ""
    more = f"({between} begin call)*" if allow_multiple else ""
    return f"""%mark all {quote_grammar_literal(ALL)}
%mark all_end {quote_grammar_literal(ALL_END)}
%mark begin {quote_grammar_literal(CALL)}
%mark call_end {quote_grammar_literal(CALL_END)}
%mark separator {quote_grammar_literal(SEPARATOR)}
calls: all body
answer: {TEXT} | to_all body
body: begin call {more} all_end
{build_alternatives_rule("call", calls)}"""
