"""Tool calls parsed from an answer, and the error for malformed ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

# functions as they were offered: name, description, parameters (JSON schema)
Schemas = Sequence[Mapping[str, Any]]


class MalformedToolCall(ValueError):
    """Raised if an answer starts a tool call that is invalid. The message tells why."""


@dataclass(frozen=True)
class ToolCall:
    """A tool call: a function's name and its arguments as JSON values."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the call in Python syntax."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class ParsedAnswer:
    """A parsed answer: its tool calls, and the text outside of them."""

    calls: tuple[ToolCall, ...] = ()
    text: str = ""
    thinking: str | None = (
        None  # of forms that mark it themselves; None: the tags around thinking tell it, as usual
    )


def parse_call_object(
    value: Any,
    name_keys: Sequence[str] = ("name",),
    argument_keys: Sequence[str] = ("arguments", "parameters"),
) -> ToolCall:
    """Convert a JSON object to a tool call. Raises MalformedToolCall if it is none."""
    if not isinstance(value, Mapping):
        raise MalformedToolCall(f"a call is an object, and this is {_shorten(value)}")
    if isinstance(value.get("function"), Mapping):  # as OpenAI nests it
        value = value["function"]
    name = next((value[key] for key in name_keys if key in value), None)
    if not isinstance(name, str) or not name:
        raise MalformedToolCall(
            f"a call names its function as {name_keys[0]!r}, and this does not: {_shorten(value)}"
        )
    arguments: Any = next((value[key] for key in argument_keys if key in value), {})
    return ToolCall(name, parse_arguments(name, arguments))


def parse_arguments(function_name: str, value: Any) -> Mapping[str, Any]:
    """Return a call's arguments, given as an object or as JSON text."""
    if isinstance(value, str):
        value = parse_whole_json(value)
    if not isinstance(value, Mapping):
        raise MalformedToolCall(
            f"the arguments of {function_name} are an object, and these are {_shorten(value)}"
        )
    return value


def parameter_types(schemas: Schemas, function_name: str) -> dict[str, Any]:
    """Return the JSON schema type of each parameter of an offered function."""
    parameters = next(
        (schema.get("parameters") or {} for schema in schemas if schema.get("name") == function_name), {}
    )
    properties = parameters.get("properties") or {}
    return {key: one.get("type") for key, one in properties.items() if isinstance(one, Mapping)}


def parse_whole_json(text: str) -> Any:
    """Parse a string that is one JSON value. Raises MalformedToolCall if other text follows."""
    value, end = parse_json_at(text, 0)
    if text[end:].strip():
        raise MalformedToolCall(f"behind the JSON there is {_shorten(text[end:].strip())}")
    return value


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """Parse the JSON value at a position, after whitespace. Returns the value and its end."""
    begin = len(text) - len(text[start:].lstrip())
    try:
        return DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raise MalformedToolCall(f"no whole JSON at {_shorten(text[begin : begin + 60])}") from error


def format_arguments(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def format_call_object(call: ToolCall, arguments_key: str = "arguments") -> str:
    """Format a call as a JSON object."""
    return json.dumps({"name": call.name, arguments_key: call.arguments}, ensure_ascii=False)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from JSON pairs. Raises ValueError if a key occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


DECODER = json.JSONDecoder(parse_constant=_reject_constant, object_pairs_hook=_reject_duplicate_keys)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
