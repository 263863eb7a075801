"""Format error messages."""

from __future__ import annotations


def format_error(key: str, value: str | None, reason: str) -> str:
    """Return `key=value: reason`, or `--option value: reason` for a command's option."""
    if not key:
        return reason
    joint = " " if key.startswith("--") else "="
    return f"{key}: {reason}" if value is None else f"{key}{joint}{value}: {reason}"
