"""Checks a document against the schema of the comparison's JSON that the package ships."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner_compare import command as compare

SCHEMA = json.loads((Path(compare.__file__).parent / "comparison.schema.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def is_a(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        return isinstance(value, int if name == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> Iterator[str]:
    """Yield what disagrees with the part of JSON Schema that is used; a key that is not described
    is a fault, too."""
    unread = schema.keys() - {
        *[
            "$schema",
            "title",
            "description",
            "type",
            "enum",
            "properties",
            "required",
            "additionalProperties",
            "items",
        ]
    }
    assert not unread, unread
    names = schema.get("type", [])
    if names and not any(is_a(value, name) for name in ([names] if isinstance(names, str) else names)):
        yield f"{where}: {value!r} is no {names}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        yield from (f"{where}.{key} is missing" for key in schema.get("required", []) if key not in value)
        for key, part in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            yield from (
                [f"{where}.{key} is not described"]
                if below is None
                else faults(part, below, f"{where}.{key}")
            )
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from faults(part, schema["items"], f"{where}[{number}]")
