"""What an answer calls, and what makes it malformed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

# functions as they were offered: name, description, parameters (JSON schema)
Schemas = Sequence[Mapping[str, Any]]


class Malformed(ValueError):
    """What begins as a call is none; the text says why."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function, with its arguments as plain values of JSON."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the call as Python writes it."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class Reading:
    """A whole answer: its calls, and what is said beside them."""

    calls: tuple[ToolCall, ...] = ()
    text: str = ""
    thinking: str | None = (
        None  # of forms that mark it themselves; None: the tags around thinking tell it, as usual
    )


def call_of(
    value: Any, names: Sequence[str] = ("name",), keys: Sequence[str] = ("arguments", "parameters")
) -> ToolCall:
    """Return the call that an object of JSON describes."""
    if not isinstance(value, Mapping):
        raise Malformed(f"a call is an object, and this is {_shown(value)}")
    if isinstance(value.get("function"), Mapping):  # as OpenAI nests it
        value = value["function"]
    name = next((value[key] for key in names if key in value), None)
    if not isinstance(name, str) or not name:
        raise Malformed(f"a call names its function as {names[0]!r}, and this does not: {_shown(value)}")
    arguments: Any = next((value[key] for key in keys if key in value), {})
    return ToolCall(name, arguments_of(name, arguments))


def arguments_of(name: str, value: Any) -> Mapping[str, Any]:
    """Return the arguments of a call, which are an object, or the text of one."""
    if isinstance(value, str):
        value = whole_json(value)
    if not isinstance(value, Mapping):
        raise Malformed(f"the arguments of {name} are an object, and these are {_shown(value)}")
    return value


def parameter_types(schemas: Schemas, name: str) -> dict[str, Any]:
    """Return the type of each parameter of an offered function, as its schema says it."""
    parameters = next(
        (schema.get("parameters") or {} for schema in schemas if schema.get("name") == name), {}
    )
    properties = parameters.get("properties") or {}
    return {key: one.get("type") for key, one in properties.items() if isinstance(one, Mapping)}


def whole_json(text: str) -> Any:
    """Return the one value that a text is; Malformed if it is another or further text."""
    value, end = json_at(text, 0)
    if text[end:].strip():
        raise Malformed(f"behind the JSON there is {_shown(text[end:].strip())}")
    return value


def json_at(text: str, start: int) -> tuple[Any, int]:
    """Return the value of JSON at a place of a text, behind blanks, and where it ends."""
    begin = len(text) - len(text[start:].lstrip())
    try:
        return DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no whole JSON at {_shown(text[begin : begin + 60])}") from error


def written_arguments(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def written_call(call: ToolCall, key: str = "arguments") -> str:
    """Return a call as an object of JSON."""
    return json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unlike_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice: nobody could say which of the values is meant."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unlike_keys)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
