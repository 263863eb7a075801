"""Parses and formats tool calls in the syntax of each model family."""

from runner_engine.tool_calls.calls import MalformedToolCall, ParsedAnswer, Schemas, ToolCall
from runner_engine.tool_calls.forms import (
    NAMES,
    USUAL,
    ToolCallFormat,
    detect_tool_call_format,
    import_tool_call_format,
)
from runner_engine.tool_calls.grammar_rules import build_json_rule
from runner_engine.tool_calls.system_message import append_tools_to_system_message

__all__ = [  # noqa: RUF022 - by what they are for
    "ToolCall",  # a function's name with its arguments
    "ParsedAnswer",  # what an answer calls and says
    "MalformedToolCall",  # raised where what begins as a call is none
    "Schemas",  # functions as they are offered
    "ToolCallFormat",  # one way in which models write calls: read, write
    "NAMES",  # of all forms
    "USUAL",  # the form of a model whose template shows none
    "import_tool_call_format",  # returns a form
    "detect_tool_call_format",  # the form that a chat template's text shows
    "build_json_rule",  # what JSON of a schema is in a grammar
    "append_tools_to_system_message",  # the system message that offers functions where the template takes none
]
