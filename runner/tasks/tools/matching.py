"""Whether the calls of an answer are those that were wanted, by the rules of BFCL's checker of
syntax trees.

Wanted is for each call a function, and for each of its parameters a list of values that are right;
"" among them: the parameter may be left out. Types are those of the function's schema, in JSON's
words or in those of BFCL (`dict`, `float`, `tuple`). Where BFCL's checker is odd, this is as odd,
so that both give one verdict: only one level of lists is looked into, a list of integers is none of
floats though an integer is a float, and a value of the type of the wanted one is taken whatever the
schema says, but must then be equal.
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


def all_match(
    calls: Sequence[tool_calls.ToolCall], wanted: Sequence[Wanted], schemas: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether the calls are the wanted ones, in any order: each wanted one takes the first call
    that is left."""
    if len(calls) != len(wanted):
        return False
    left = [*range(len(calls))]
    for name, allowed in wanted:
        schema = next(schema for schema in schemas if schema["name"] == name)
        fitting = (
            at for at in left if calls[at].name == name and arguments_match(calls[at], allowed, schema)
        )
        found = next(fitting, None)
        if found is None:
            return False
        left.remove(found)
    return True


def arguments_match(call: tool_calls.ToolCall, allowed: Allowed, schema: Mapping[str, Any]) -> bool:
    """Whether a call has all arguments that it needs, and each has the right type and one of the
    allowed values."""
    parameters = schema["parameters"]
    properties, given = parameters["properties"], call.arguments
    if any(name not in given for name in parameters.get("required", ())):
        return False
    if any(name not in given and LEFT_OUT not in values for name, values in allowed.items()):
        return False
    return all(
        name in properties and name in allowed and _is_right(value, allowed[name], properties[name])
        for name, value in given.items()
    )


def _is_right(value: Any, allowed: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Whether a value has the type that the schema says, and is one of the allowed ones."""
    declared = schema.get("type", "string")
    wanted: type[Any] = TYPES[declared]
    if declared == "tuple" and isinstance(value, tuple):
        value = [*value]
    if declared in FLOATS and type(value) is int:
        value = float(value)
    items = TYPES[schema["items"]["type"]] if declared in LISTS else None
    of_allowed = _type_of(allowed)
    # the wanted value has another type than the schema
    is_other = of_allowed is not None and of_allowed is not wanted
    if type(value) is wanted:
        if items is not None and not _has_items(value, allowed, items):
            return False
    elif of_allowed is not None and type(value) is of_allowed:
        is_other = True
    else:
        return False
    return value in allowed if is_other else _is_among(value, allowed, wanted, items)


def _type_of(allowed: Sequence[Any]) -> type | None:
    """Return the type of the first allowed value; None if the parameter may only be left out."""
    return next((type(value) for value in allowed if value != LEFT_OUT), None)


def _has_items(value: list[Any], allowed: Sequence[Any], items: type) -> bool:
    """Whether a list has items of a type, or of the type of the wanted ones."""
    return any(
        not isinstance(one, list) or all(type(item) is items or type(item) is _type_of(one) for item in value)
        for one in allowed
    )


def _is_among(value: Any, allowed: Sequence[Any], wanted: type, items: type | None) -> bool:
    """Whether a value of the wanted type is one of the allowed ones; texts are compared without
    what is IGNORED."""
    if wanted is dict:
        return any(one != LEFT_OUT and _is_object(value, one) for one in allowed)
    if wanted is list and items is dict:
        return any(_are_objects(value, one) for one in allowed)
    if wanted is str:
        return plain(value) in [plain(one) for one in allowed if isinstance(one, str)]
    if wanted is list:
        return [plain(item) for item in value] in [[plain(item) for item in one] for one in allowed]
    return value in allowed


def _is_object(value: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    if any(key not in value and LEFT_OUT not in values for key, values in allowed.items()):
        return False
    return all(
        key in allowed and plain(one) in [plain(it) for it in allowed[key]] for key, one in value.items()
    )


def _are_objects(value: Sequence[Any], allowed: Sequence[Any]) -> bool:
    """Whether a list has objects, each with the allowed keys and values of its place."""
    pairs = zip(value, allowed, strict=True) if len(value) == len(allowed) else None
    return pairs is not None and all(one != LEFT_OUT and _is_object(given, one) for given, one in pairs)


def plain(value: Any) -> Any:
    """Return a text as it is compared, without blanks, some marks and capital letters; any other
    value unchanged."""
    return IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
