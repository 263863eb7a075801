"""The formats in which models write tool calls, one module each. A module has:

MARKS: strings that the chat template of a model with this format contains; empty: not detectable
IS_RAW: whether it parses the answer including its thinking, because it marks both in one way
parse_answer(answer, schemas): the calls of a whole answer and the text outside of them; raises
MalformedToolCall if a call is incomplete
format_calls(calls): the same calls in this format
build_grammar(schemas, allow_multiple, template): the grammar rules of answers in this format, as in
grammar_rules.py; ConfigError if no grammar can constrain it
count_plain_prefix(answer): how many leading characters of an answer cannot belong to a call,
whatever follows
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from runner_engine.tool_calls.calls import ParsedAnswer, Schemas, ToolCall

# In the order in which a template is looked at: what contains another one's marks stands before it.
NAMES = ("harmony", "deepseek", "mistral", "glm", "qwen_xml", "hermes", "lfm2", "llama", "pythonic", "json")
USUAL = "json"  # of a template that shows none


class ToolCallFormat(Protocol):
    """Protocol of a tool call format's module."""

    MARKS: tuple[tuple[str, ...], ...]
    IS_RAW: bool

    def parse_answer(self, answer: str, schemas: Schemas = ()) -> ParsedAnswer:
        """Parse the tool calls and the text of an answer."""
        ...

    def format_calls(self, calls: Sequence[ToolCall]) -> str:
        """Format calls as a model with this format writes them."""
        ...

    def build_grammar(
        self, schemas: Schemas, allow_multiple: bool = True, template: str | None = None
    ) -> str:
        """Build the grammar rules for one or several calls. template: the chat template's source."""
        ...

    def count_plain_prefix(self, answer: str) -> int:
        """Return how many leading characters cannot belong to a call, whatever follows."""
        ...


def import_format(format_name: str) -> ToolCallFormat:
    return cast(ToolCallFormat, import_module(f"{__name__}.{format_name}"))


def detect_format_name(template: str | None) -> str | None:
    """Detect the tool call format from a chat template's source. None if it shows none."""
    text = template or ""
    for name in NAMES:
        if any(all(mark in text for mark in marks) for marks in import_format(name).MARKS):
            return name
    return None
