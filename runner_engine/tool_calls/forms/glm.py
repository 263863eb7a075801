"""GLM 4.5 and later: the name, then each parameter's name and its value in tags.

<tool_call>f
<arg_key>a</arg_key>
<arg_value>1</arg_value>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.tool_calls.calls import Malformed, Reading, Schemas, ToolCall, parameter_types
from runner_engine.tool_calls.plain_values import typed, untyped
from runner_engine.tool_calls.rules import TEXT, alternatives, one_by_one, plain_value, quoted
from runner_engine.tool_calls.scanning import before_marks, behind, between_marks, up_to

OPENING, CLOSING = "<tool_call>", "</tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"
MARKS = ((KEY, VALUE),)
IS_RAW = False


def read(text: str, schemas: Schemas = ()) -> Reading:
    calls: list[ToolCall] = []

    def block(start: int) -> int:
        ends = [at for mark in (KEY, CLOSING) if (at := text.find(mark, start)) >= 0]
        name, at = text[start : min(ends, default=start)].strip(), min(ends, default=start)
        if not name or "\n" in name:
            raise Malformed("a call has no name")
        types, arguments = parameter_types(schemas, name), dict[str, Any]()
        while text[at:].lstrip().startswith(KEY):
            key, at = up_to(text, behind(text, at, KEY), KEY_END)
            value, at = up_to(text, behind(text, at, VALUE), VALUE_END)
            if key.strip() in arguments:
                raise Malformed(f"the parameter {key.strip()} stands twice")
            arguments[key.strip()] = typed(value, types.get(key.strip()))
        calls.append(ToolCall(name, arguments))
        return behind(text, at, CLOSING)

    said = between_marks(text, OPENING, CLOSING, block)
    return Reading(tuple(calls), said)


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls, each between tags of its own."""
    written = []
    for call in calls:
        pairs = [
            f"{KEY}{key}{KEY_END}\n{VALUE}{untyped(value)}{VALUE_END}\n"
            for key, value in call.arguments.items()
        ]
        written.append(f"{OPENING}{call.name}\n{''.join(pairs)}{CLOSING}")
    return "\n".join(written)


def free(text: str) -> int:
    """Return how many characters stand before anything of a call."""
    return before_marks(text, OPENING, CLOSING)


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Return the rules of calls."""

    def value(name: str, schema: Any) -> str:
        written = plain_value("glm", name, schema, "value_end", VALUE_END)
        return f'key {quoted(name)} key_end "\\n" value {written} "\\n"'

    rules = [one_by_one(at, one, "glm", value) for at, one in enumerate(schemas)]
    names = [quoted(f"{one['name']}\n") for one in schemas]
    calls = (f"{name} parameters_{at}" for at, name in enumerate(names))
    more = '("\\n" opening body)*' if several else ""
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
            *(f"%mark {name} {quoted(mark)}" for name, mark in marks.items()),
            f"calls: opening body {more}",
            f"answer: {TEXT} | to_opening body {more}",
            "body: call closing",
            alternatives("call", calls),
            *rules,
        ]
    )
