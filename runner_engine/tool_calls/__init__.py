"""Calls of functions in answers, in the forms that models write. These names are what others need
of this folder."""

from runner_engine.tool_calls.calls import Malformed, Reading, Schemas, ToolCall
from runner_engine.tool_calls.forms import NAMES, USUAL, Form, form_named, name_for
from runner_engine.tool_calls.offering import in_system
from runner_engine.tool_calls.rules import json_of

__all__ = [  # noqa: RUF022 - by what they are for
    "ToolCall",  # a function's name with its arguments
    "Reading",  # what an answer calls and says
    "Malformed",  # raised where what begins as a call is none
    "Schemas",  # functions as they are offered
    "Form",  # one way in which models write calls: read, write
    "NAMES",  # of all forms
    "USUAL",  # the form of a model whose template shows none
    "form_named",  # returns a form
    "name_for",  # the form that a chat template's text shows
    "json_of",  # what JSON of a schema is in a grammar
    "in_system",  # the system message that offers functions where the template takes none
]
