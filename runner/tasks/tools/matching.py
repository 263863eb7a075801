"""Compares an answer's tool calls with the expected calls by the rules of BFCL's AST checker.

Expected is for each call a function, and for each of its parameters a list of right values.
"" among them means that the parameter may be omitted. Types are those of the function's
schema, in JSON's terms or in those of BFCL (`dict`, `float`, `tuple`). Where BFCL's checker is
odd, this one is equally odd, so that both give the same verdict: only one level of lists is
inspected, a list of integers does not match floats although an integer does, and a value with
the type of the expected one is accepted whatever the schema says, but must then be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner_engine import tool_calls

Allowed = Mapping[str, Sequence[Any]]  # by parameter: the values that are right
Wanted = tuple[str, Allowed]  # a function, and what its arguments may be
LEFT_OUT = ""  # among allowed values: the parameter may be left out
TYPES: dict[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "number": float,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "object": dict,
    "dict": dict,
}
LISTS = ("array", "tuple")
FLOATS = ("float", "number")
# in texts, beside capital letters: April 1, 2024 is april 1 2024
IGNORED = re.compile(r"[ ,./\-_*^]")


def has_expected_tool_calls(
    calls: Sequence[tool_calls.ToolCall], expected: Sequence[Wanted], schemas: Sequence[Mapping[str, Any]]
) -> bool:
    if len(calls) != len(expected):
        return False
    left = [*range(len(calls))]
    for name, allowed in expected:
        schema = next(schema for schema in schemas if schema["name"] == name)
        fitting = (
            at for at in left if calls[at].name == name and has_allowed_arguments(calls[at], allowed, schema)
        )
        found = next(fitting, None)
        if found is None:
            return False
        left.remove(found)
    return True


def has_allowed_arguments(
    call: tool_calls.ToolCall, allowed_values: Allowed, schema: Mapping[str, Any]
) -> bool:
    """Return whether a call has all required arguments, each with the right type and an allowed value."""
    parameters = schema["parameters"]
    properties, given = parameters["properties"], call.arguments
    if any(name not in given for name in parameters.get("required", ())):
        return False
    if any(name not in given and LEFT_OUT not in values for name, values in allowed_values.items()):
        return False
    return all(
        name in properties
        and name in allowed_values
        and _is_valid_argument_value(value, allowed_values[name], properties[name])
        for name, value in given.items()
    )


def _is_valid_argument_value(value: Any, allowed_values: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Return whether a value has the schema's type and is one of the allowed values."""
    declared = schema.get("type", "string")
    wanted: type[Any] = TYPES[declared]
    if declared == "tuple" and isinstance(value, tuple):
        value = [*value]
    if declared in FLOATS and type(value) is int:
        value = float(value)
    items = TYPES[schema["items"]["type"]] if declared in LISTS else None
    of_allowed = _first_allowed_type(allowed_values)
    # the wanted value has another type than the schema
    is_other = of_allowed is not None and of_allowed is not wanted
    if type(value) is wanted:
        if items is not None and not _has_item_type(value, allowed_values, items):
            return False
    elif of_allowed is not None and type(value) is of_allowed:
        is_other = True
    else:
        return False
    return (
        value in allowed_values
        if is_other
        else _is_allowed_argument_value(value, allowed_values, wanted, items)
    )


def _first_allowed_type(allowed_values: Sequence[Any]) -> type | None:
    """Return the type of the first allowed value. None if the parameter must be omitted."""
    return next((type(value) for value in allowed_values if value != LEFT_OUT), None)


def _has_item_type(value: list[Any], allowed_values: Sequence[Any], item_type: type) -> bool:
    """Return whether all list items have `item_type`, or the same type as the items of an allowed list."""
    return any(
        not isinstance(one, list)
        or all(type(item) is item_type or type(item) is _first_allowed_type(one) for item in value)
        for one in allowed_values
    )


def _is_allowed_argument_value(
    value: Any, allowed_values: Sequence[Any], expected_type: type, item_type: type | None
) -> bool:
    """Return whether a value is allowed. Case, blanks and punctuation of strings are ignored."""
    if expected_type is dict:
        return any(one != LEFT_OUT and _object_matches(value, one) for one in allowed_values)
    if expected_type is list and item_type is dict:
        return any(_is_allowed_object_list(value, one) for one in allowed_values)
    if expected_type is str:
        return normalize_if_text(value) in [
            normalize_if_text(one) for one in allowed_values if isinstance(one, str)
        ]
    if expected_type is list:
        return [normalize_if_text(item) for item in value] in [
            [normalize_if_text(item) for item in one] for one in allowed_values
        ]
    return value in allowed_values


def _object_matches(value: Mapping[str, Any], allowed_values: Mapping[str, Sequence[Any]]) -> bool:
    if any(key not in value and LEFT_OUT not in values for key, values in allowed_values.items()):
        return False
    return all(
        key in allowed_values
        and normalize_if_text(one) in [normalize_if_text(it) for it in allowed_values[key]]
        for key, one in value.items()
    )


def _is_allowed_object_list(value: Sequence[Any], allowed_objects: Sequence[Any]) -> bool:
    pairs = zip(value, allowed_objects, strict=True) if len(value) == len(allowed_objects) else None
    return pairs is not None and all(one != LEFT_OUT and _object_matches(given, one) for given, one in pairs)


def normalize_if_text(value: Any) -> Any:
    """Return a text in lower case without blanks and some punctuation. Other values are returned
    unchanged.
    """
    return IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
