"""The forms in which models write calls, a module each. A module has:

MARKS: what the chat template of a model with this form contains, all of it; empty: nothing tells it
IS_RAW: whether it reads the answer with its thinking, because it marks both in one way
read(text, schemas): the calls of a whole answer and what is said beside them; Malformed where one
is half
write(calls): the same calls in this form
grammar(schemas, several, template): the rules of answers in this form, as rules.py says; ConfigError
where a grammar cannot hold one
free(text): how many characters at the beginning of an answer no call can begin in, whatever follows
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from runner_engine.tool_calls.calls import Reading, Schemas, ToolCall

# In the order in which a template is looked at: what contains another one's marks stands before it.
NAMES = ("harmony", "deepseek", "mistral", "glm", "qwen_xml", "hermes", "lfm2", "llama", "pythonic", "json")
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

    def grammar(self, schemas: Schemas, several: bool = True, template: str | None = None) -> str:
        """Return the rules of calls: one, or several; template: the text of the chat template."""
        ...

    def free(self, text: str) -> int:
        """Return how many characters of an answer's beginning are no call, whatever follows."""
        ...


def form_named(name: str) -> Form:
    return cast(Form, import_module(f"{__name__}.{name}"))


def name_for(template: str | None) -> str | None:
    """Return the name of the form that a chat template's own text shows; None if it shows none."""
    text = template or ""
    for name in NAMES:
        if any(all(mark in text for mark in marks) for marks in form_named(name).MARKS):
            return name
    return None
