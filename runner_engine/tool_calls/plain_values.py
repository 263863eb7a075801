"""Converts parameter values from plain text to the types in the function's schema."""

from __future__ import annotations

import ast
import json
from typing import Any

STRINGS = ("string", "str", "text")


def parse_plain_value(text: str, type_name: Any) -> Any:
    """Convert plain text to a value of the parameter's type. Text that cannot be parsed stays a
    string.
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
