"""Helper for declaring the fields of ctypes structures."""

from __future__ import annotations


def build_same_type_fields(field_type: type, *names: str) -> tuple[tuple[str, type], ...]:
    """Return declarations of consecutive ctypes fields that have the same type."""
    return tuple((name, field_type) for name in names)
