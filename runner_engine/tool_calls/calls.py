"""Tool calls parsed from an answer, and the error for malformed tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

# functions as they were offered: name, description, parameters (JSON schema)
Schemas = Sequence[Mapping[str, Any]]


class MalformedToolCall(ValueError):
    """Raised if an answer contains an incomplete or invalid tool call. The message contains the
    reason.
    """


@dataclass(frozen=True)
class ToolCall:
    """A tool call: the function's name, and its arguments as JSON values."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """Format the tool call in Python syntax."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@dataclass(frozen=True)
class ParsedAnswer:
    """A parsed answer: its tool calls, and the text outside of these calls."""

    calls: tuple[ToolCall, ...] = ()
    text: str = ""
    thinking: str | None = (
        None  # of forms that mark it themselves; None: the tags around thinking tell it, as usual
    )


def parse_call_object(
    json_value: Any,
    name_keys: Sequence[str] = ("name",),
    argument_keys: Sequence[str] = ("arguments", "parameters"),
) -> ToolCall:
    """Convert a JSON object to a tool call.

    Raises MalformedToolCall if the object is not a valid call.
    """
    if not isinstance(json_value, Mapping):
        raise MalformedToolCall(f"a tool call must be an object, but is {_shorten_for_message(json_value)}")
    if isinstance(json_value.get("function"), Mapping):  # as OpenAI nests it
        json_value = json_value["function"]
    name = next((json_value[key] for key in name_keys if key in json_value), None)
    if not isinstance(name, str) or not name:
        raise MalformedToolCall(
            f"a tool call must contain a function name in {name_keys[0]!r}: "
            f"{_shorten_for_message(json_value)}"
        )
    arguments: Any = next((json_value[key] for key in argument_keys if key in json_value), {})
    return ToolCall(name, parse_call_arguments(name, arguments))


def parse_call_arguments(function_name: str, arguments: Any) -> Mapping[str, Any]:
    """Return the arguments of a tool call, which may be a JSON object or JSON text."""
    if isinstance(arguments, str):
        arguments = parse_single_json_value(arguments)
    if not isinstance(arguments, Mapping):
        raise MalformedToolCall(
            f"the arguments of {function_name} must be an object, but are {_shorten_for_message(arguments)}"
        )
    return arguments


def get_parameter_types(schemas: Schemas, function_name: str) -> dict[str, Any]:
    parameters = next(
        (schema.get("parameters") or {} for schema in schemas if schema.get("name") == function_name), {}
    )
    properties = parameters.get("properties") or {}
    return {key: one.get("type") for key, one in properties.items() if isinstance(one, Mapping)}


def parse_single_json_value(text: str) -> Any:
    """Parse a string that contains a single JSON value.

    Raises MalformedToolCall if other text follows.
    """
    value, end = parse_json_at(text, 0)
    if text[end:].strip():
        raise MalformedToolCall(f"text follows the JSON: {_shorten_for_message(text[end:].strip())}")
    return value


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """Parse the JSON value that starts at a position, after optional whitespace.

    Returns the value and its end position.
    """
    begin = len(text) - len(text[start:].lstrip())
    try:
        return DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raise MalformedToolCall(
            f"the JSON is incomplete or invalid at {_shorten_for_message(text[begin : begin + 60])}"
        ) from error


def format_arguments(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def format_call_object(call: ToolCall, arguments_key: str = "arguments") -> str:
    return json.dumps({"name": call.name, arguments_key: call.arguments}, ensure_ascii=False)


def _reject_json_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _build_dict_requiring_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary from JSON pairs. Raises ValueError if a key occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


DECODER = json.JSONDecoder(
    parse_constant=_reject_json_constant, object_pairs_hook=_build_dict_requiring_unique_keys
)


def _shorten_for_message(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
