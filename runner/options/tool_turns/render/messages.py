"""Messages to the model, and the calls of a scenario as text."""

from __future__ import annotations


def format_malformed_call_message(problem: str) -> str:
    """Return the answer to a call that cannot be parsed. No tool has run, so no tool answers."""
    return f"Error: your tool call could not be read: {problem}"
