"""Tool call formats of models: one module per format.

MARKS: strings that the chat template of a model with this format contains; empty: not
detectable IS_RAW: whether answers are parsed with their thinking, because both have the same
marks parse_answer(answer, schemas): the calls in a complete answer, and the text outside of the
calls; raises MalformedToolCall if a call is incomplete format_calls(calls): the same calls in
this format build_grammar(schemas, allow_multiple, template): the grammar rules of answers in
this format, as in grammar_rules.py; ConfigError if no grammar can constrain the format
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
    """Protocol of the modules that implement one tool call format each."""

    MARKS: tuple[tuple[str, ...], ...]
    IS_RAW: bool

    def parse_answer(self, answer: str, schemas: Schemas = ()) -> ParsedAnswer:
        """Split an answer into its tool calls and the text outside of the calls."""
        ...

    def format_calls(self, calls: Sequence[ToolCall]) -> str:
        """Format tool calls in the syntax that models with this format generate."""
        ...

    def build_grammar(
        self, schemas: Schemas, allow_multiple: bool = True, template: str | None = None
    ) -> str:
        """Build the grammar rules for tool calls.

        `template` is the source of the model's chat template.
        """
        ...

    def count_plain_prefix(self, answer: str) -> int:
        """Return the number of leading characters in a partial answer that cannot be part of a tool call."""
        ...


def import_tool_call_format(format_name: str) -> ToolCallFormat:
    return cast(ToolCallFormat, import_module(f"{__name__}.{format_name}"))


def detect_tool_call_format(template: str | None) -> str | None:
    """Detect a model's tool call format from the source of its chat template.

    Returns None if the template shows no known format.
    """
    text = template or ""
    for name in NAMES:
        if any(all(mark in text for mark in marks) for marks in import_tool_call_format(name).MARKS):
            return name
    return None
