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
from runner_engine.tool_calls.rules import TEXT, alternatives, json_of, parameters_of, quoted
from runner_engine.tool_calls.scanning import before_marks, behind, between_marks, up_to

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


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return before_marks(text, ALL, ALL_END, CALL, CALL_END)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:
    """Return the rules of calls."""
    is_old = "```json" in (template or "")
    calls = []
    for schema in schemas:
        name, arguments = schema["name"], json_of(parameters_of(schema))
        if is_old:
            in_block = f"{name}\n```json\n"
            head, tail = f'"function" separator {quoted(in_block)}', quoted("\n```")
        else:
            head, tail = f"{quoted(name)} separator", ""
        calls.append(f"{head} {arguments} {tail} call_end")
    between = '"\\n"' if is_old else ""
    more = f"({between} begin call)*" if several else ""
    return f"""%mark all {quoted(ALL)}
%mark all_end {quoted(ALL_END)}
%mark begin {quoted(CALL)}
%mark call_end {quoted(CALL_END)}
%mark separator {quoted(SEPARATOR)}
calls: all body
answer: {TEXT} | to_all body
body: begin call {more} all_end
{alternatives("call", calls)}"""
