"""Tool calls of LFM2: a list of calls in Python syntax between marker tokens.

<|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.tool_calls.calls import ParsedAnswer, Schemas, ToolCall
from runner_engine.tool_calls.forms import pythonic
from runner_engine.tool_calls.grammar_rules import NO_PYTHON, build_python_list_rules, quote_grammar_literal
from runner_engine.tool_calls.python_calls import format_python_calls, parse_python_calls
from runner_engine.tool_calls.scanning import (
    count_characters_before_first_marker,
    read_blocks_and_outside_text,
    read_until_marker,
)

START, END = "<|tool_call_start|>", "<|tool_call_end|>"
MARKS = ((START,), ("<|tool_list_start|>",))
IS_RAW = False


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:
    """Parse the tool calls between marker tokens.

    An answer without marker tokens may consist of the list alone.
    """
    if START not in answer and END not in answer:
        return pythonic.parse_answer(answer, schemas)
    calls: list[ToolCall] = []

    def parse_call_at(start: int) -> int:
        written, end = read_until_marker(answer, start, END)
        calls.extend(parse_python_calls(written.strip()))
        return end

    said = read_blocks_and_outside_text(answer, START, END, parse_call_at)
    return ParsedAnswer(tuple(calls), said)


def format_calls(calls: Sequence[ToolCall]) -> str:
    return f"{START}{format_python_calls(calls)}{END}"


def count_plain_prefix(answer: str) -> int:
    return min(pythonic.count_plain_prefix(answer), count_characters_before_first_marker(answer, START, END))


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    return f"""%mark start_mark {quote_grammar_literal(START)}
%mark end_mark {quote_grammar_literal(END)}
calls: start_mark list end_mark
answer: "" | {NO_PYTHON} | to_start_mark list end_mark
{build_python_list_rules(schemas, allow_multiple, "lfm2")}"""
