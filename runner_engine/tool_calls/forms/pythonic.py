"""Tool calls of Llama 3.2, Llama 4 and others: the whole answer is a list of calls in Python
syntax.

[f(a=1), g(b="x")]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import ParsedAnswer, Schemas, ToolCall
from runner_engine.tool_calls.grammar_rules import NO_PYTHON, build_python_list_rules
from runner_engine.tool_calls.python_calls import format_python_calls, parse_python_calls
from runner_engine.tool_calls.scanning import count_characters_unless_marker_begins

START, END = "<|python_start|>", "<|python_end|>"  # Llama 4 may write them around the list
MARKS = (("func_name1(",), (START,))
IS_RAW = False
BEGINS_CALL = re.compile(r"\[|[A-Za-z_][\w.]*\(")  # one call is also written without the brackets

MAY_BEGIN_CALL = re.compile(rf"\s*(?:{BEGINS_CALL.pattern}|(?:[A-Za-z_][\w.]*)?\Z)")


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    """Parse the tool calls of an answer that is a list in Python syntax. Other answers are plain text."""
    plain = answer.strip()
    if plain.startswith(START):
        plain = plain.removeprefix(START).removesuffix(END).strip()
    if not BEGINS_CALL.match(plain):
        return ParsedAnswer((), answer)
    return ParsedAnswer(parse_python_calls(plain if plain.startswith("[") else f"[{plain}]"))


def format_calls(calls: Sequence[ToolCall]) -> str:
    return format_python_calls(calls)


def count_plain_prefix(answer: str) -> int:
    """Return 0 if the partial answer may become tool calls, otherwise the answer's length."""
    return 0 if MAY_BEGIN_CALL.match(answer) else count_characters_unless_marker_begins(answer, START)


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    return f"""calls: list
answer: "" | list | {NO_PYTHON}
{build_python_list_rules(schemas, allow_multiple, "pythonic")}"""
