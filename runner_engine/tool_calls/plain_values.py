"""Converts parameter values from plain text to the types that the function's schema declares."""

from __future__ import annotations

import ast
import json
from typing import Any

STRINGS = ("string", "str", "text")


def parse_plain_value(text: str, type_name: Any) -> Any:
    """Convert plain text to a value of the parameter's type.

    Returns the text itself if it cannot be parsed.
    """
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


def format_plain_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
