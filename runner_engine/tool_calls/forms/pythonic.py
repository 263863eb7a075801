"""Llama 3.2 and 4, and others: a list of calls as Python writes them; the answer is nothing else.

[f(a=1), g(b="x")]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall
from runner_engine.tool_calls.python_calls import python_calls, written_calls
from runner_engine.tool_calls.rules import NO_PYTHON, python_list
from runner_engine.tool_calls.scanning import unless_begun

START, END = "<|python_start|>", "<|python_end|>"  # Llama 4 may write them around the list
MARKS = (("func_name1(",), (START,))
IS_RAW = False
BEGINS_CALL = re.compile(r"\[|[A-Za-z_][\w.]*\(")  # one call is also written without the brackets

MAY_BEGIN_CALL = re.compile(rf"\s*(?:{BEGINS_CALL.pattern}|(?:[A-Za-z_][\w.]*)?\Z)")


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the calls of an answer that is such a list; any other one only says something."""
    plain = text.strip()
    if plain.startswith(START):
        plain = plain.removeprefix(START).removesuffix(END).strip()
    if not BEGINS_CALL.match(plain):
        return Reading((), text)
    return Reading(python_calls(plain if plain.startswith("[") else f"[{plain}]"))


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls as a list."""
    return written_calls(calls)


def free(text: str) -> int:
    """Return 0 if an answer may be calls, which are all of it."""
    return 0 if MAY_BEGIN_CALL.match(text) else unless_begun(text, START)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""
    return f"""calls: list
answer: "" | list | {NO_PYTHON}
{python_list(schemas, several, "pythonic")}"""
