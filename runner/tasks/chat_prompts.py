"""Builds what the requests of several tasks share: chat prompts, and ids of random numbers."""

from __future__ import annotations

from runner_engine import Message, RequestId


def build_chat_prompt(text: str, system: str | None) -> tuple[Message, ...]:
    """Return a user message, after a system message if there is one."""
    return (*([Message("system", system)] if system else []), Message("user", text))


def build_random_id(number: int, repeat_index: int) -> RequestId | None:
    """Return the id that determines a request's random numbers. Repeats of a job have other numbers."""
    return f"{number}, repeat {repeat_index}" if repeat_index else None
