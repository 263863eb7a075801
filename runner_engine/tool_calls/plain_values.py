"""Values that a form writes as plain text: what they are is told by the schema of the offered
function."""

from __future__ import annotations

import ast
import json
from typing import Any

STRINGS = ("string", "str", "text")


def typed(text: str, type_name: Any) -> Any:
    """Return the value of a text for a parameter of this type; what is no such value stays a text,
    as it is."""
    plain = text.removeprefix("\n").removesuffix("\n")
    if type_name in STRINGS:
        return plain
    try:
        return json.loads(plain)
    except ValueError:
        pass
    try:
        return ast.literal_eval(plain.strip())  # True, and other values as Python writes them
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return plain


def untyped(value: Any) -> str:
    """Return a value as such a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
