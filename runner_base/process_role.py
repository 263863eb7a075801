"""Tells whether this process runs only one of our commands, or a program of the user that imports us."""

from __future__ import annotations

_is_command = False


def mark_as_command() -> None:
    global _is_command
    _is_command = True


def is_command() -> bool:
    """Whether nobody else's code runs in this process, so that libraries may be imported in parts."""
    return _is_command
