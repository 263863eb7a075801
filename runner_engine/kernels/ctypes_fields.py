"""Helper for fields of ctypes structures."""

from __future__ import annotations


def build_same_type_fields(ctype: type, *names: str) -> tuple[tuple[str, type], ...]:
    """Return consecutive structure fields of one type."""
    return tuple((name, ctype) for name in names)
