"""How fields of structures that C reads are written down."""

from __future__ import annotations


def fields_of(kind: type, *names: str) -> tuple[tuple[str, type], ...]:
    """Return neighbouring fields of one type."""
    return tuple((name, kind) for name in names)
