"""DeepSeek V3, R1 and V3.1: tokens around all calls and around each; older ones have the arguments
in a block of code.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner_engine.tool_calls.calls import (
    Malformed,
    Reading,
    Schemas,
    ToolCall,
    arguments_of,
    whole_json,
    written_arguments,
)
from runner_engine.tool_calls.scanning import behind, between_marks, up_to

ALL, ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
MARKS = ((ALL,),)
IS_RAW = False
IN_BLOCK = re.compile(r"([^\n]+)\n```json\n(.*)\n```", re.DOTALL)


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the calls."""
    calls: list[ToolCall] = []

    def block(at: int) -> int:
        while text[at:].lstrip().startswith(CALL):
            content, at = up_to(text, behind(text, at, CALL), CALL_END)
            calls.append(_call(content))
        return behind(text, at, ALL_END)

    said = between_marks(text, ALL, ALL_END, block)
    if CALL in said or CALL_END in said:
        raise Malformed(f"a call outside of {ALL}")
    return Reading(tuple(calls), said)


def _call(content: str) -> ToolCall:
    before, mark, after = content.partition(SEPARATOR)
    if not mark:
        raise Malformed(f"{SEPARATOR} is missing")
    in_block = IN_BLOCK.fullmatch(after.strip())
    if before.strip() == "function" and in_block:
        name, arguments = in_block[1].strip(), in_block[2]
    else:
        name, arguments = before.strip(), after
    if not name:
        raise Malformed("a call has no name")
    return ToolCall(name, arguments_of(name, whole_json(arguments)))


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls as V3.1 writes them."""
    written = (f"{CALL}{call.name}{SEPARATOR}{written_arguments(call)}{CALL_END}" for call in calls)
    return f"{ALL}{''.join(written)}{ALL_END}"
