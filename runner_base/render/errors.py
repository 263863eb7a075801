"""The one place that decides how an error is worded."""

from __future__ import annotations


def error_message(key: str, value: str | None, reason: str) -> str:
    """Return `key=value: reason`, and of a command's option `--option value: reason`."""
    if not key:
        return reason
    joint = " " if key.startswith("--") else "="
    return f"{key}: {reason}" if value is None else f"{key}{joint}{value}: {reason}"
