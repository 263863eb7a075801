"""The forms in which models write calls, a module each. A module has:

MARKS: what the chat template of a model with this form contains, all of it; empty: nothing tells it
IS_RAW: whether it reads the answer with its thinking, because it marks both in one way
read(text, schemas): the calls of a whole answer and what is said beside them; Malformed where one
is half
write(calls): the same calls in this form
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall

# In the order in which a template is looked at: what contains another one's marks stands before it.
NAMES = (
    "harmony",
    "deepseek",
    "mistral",
    "glm",
    "qwen_xml",
    "hermes",
    "lfm2",
    "llama",
    "pythonic",
    "json",
)
USUAL = "json"  # of a template that shows none


class Form(Protocol):
    """What each module has."""

    MARKS: tuple[tuple[str, ...], ...]
    IS_RAW: bool

    def read(self, text: str, schemas: Schemas = ()) -> Reading:
        """Return what an answer calls and says."""
        ...

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Return calls as a model with this form writes them."""
        ...


def form_named(name: str) -> Form:
    """Return a form by its name in NAMES."""
    return cast(Form, import_module(f"{__name__}.{name}"))


def name_for(template: str | None) -> str | None:
    """Return the name of the form that a chat template's own text shows; None if it shows none."""
    text = template or ""
    for name in NAMES:
        if any(all(mark in text for mark in marks) for marks in form_named(name).MARKS):
            return name
    return None
