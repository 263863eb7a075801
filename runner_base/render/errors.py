"""The one place that decides how an error is worded."""

from __future__ import annotations

NOT_GIVEN = ...  # in place of a value: None is one, and a pickled error keeps only a constant


def error_message(key: str, value: object, reason: str) -> str:
    """Return `key=value: reason`, and of a command's option `--option value: reason`."""
    if not key:
        return reason
    joint = " " if key.startswith("--") else "="
    return f"{key}: {reason}" if value is NOT_GIVEN else f"{key}{joint}{value}: {reason}"
