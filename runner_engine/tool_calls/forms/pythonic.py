"""Llama 3.2 and 4, and others: a list of calls as Python writes them; the answer is nothing else.

[f(a=1), g(b="x")]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall
from runner_engine.tool_calls.python_calls import python_calls, written_calls

START, END = "<|python_start|>", "<|python_end|>"  # Llama 4 may write them around the list
MARKS = (("func_name1(",), (START,))
IS_RAW = False
BEGINS_CALL = re.compile(r"\[|[A-Za-z_][\w.]*\(")  # one call is also written without the brackets


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
