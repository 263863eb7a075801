"""Describes the tools of a request in the prompt, and parses tool calls in the answer.

The engine defines the formats in which models write calls. An incomplete or invalid call
remains text of the answer.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.options.serve.bodies import ChatBody, Chosen, Tool
from runner.options.serve.keys import AUTO, ServeConfig, ToolOffer
from runner.options.serve.refusals import Refusal
from runner_base import Answer, format_unknown_choice_message
from runner_engine import Message, tool_calls
from runner_engine.checkpoints import chat_templates
from runner_engine.sessions.tool_messages import write_tools_as_text

FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
CHOICES = ("auto", "none", "required")
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer split into thinking, text and tool calls."""

    content: str
    calls: tuple[dict[str, Any], ...] = ()  # name, and arguments as JSON
    thinking: str | None = None  # None: there was none


class OfferedTools:
    """Functions that a request allows the model to call, and the parser of such calls."""

    def __init__(
        self,
        tool_support: ToolSupport,
        functions: Sequence[dict[str, Any]],
        required_functions: Sequence[str] = (),
        allow_several: bool = True,
        is_strict: bool = False,
    ) -> None:
        self.served, self.functions, self.must = tool_support, functions, required_functions
        self.several, self.is_strict = allow_several, is_strict

    @property
    def grammar_rules(self) -> str | None:
        if not (self.must or self.is_strict or not self.several):
            return None
        among = [one for one in self.functions if not self.must or one["name"] in self.must]
        return self.served.form.build_grammar(among, self.several, self.served.template)

    @property
    def marks_thinking(self) -> bool:
        return self.served.form.IS_RAW

    def parse_answer(self, answer: Answer) -> ParsedAnswer:
        """Split an answer into text and tool calls. An incomplete tool call is treated as text."""
        parts = answer.parts
        thinking = parts.thinking if parts.has_thinking else None
        if parts.is_open:
            return ParsedAnswer("", (), thinking)
        text = parts.answer
        try:
            reading = self.served.form.parse_answer(text, self.functions)
            calls = tuple(_serialize_call(call) for call in reading.calls)
        except tool_calls.MalformedToolCall:
            return ParsedAnswer(text, (), thinking)
        thinking = reading.thinking if reading.thinking else thinking
        if not calls:
            return ParsedAnswer(reading.text if self.marks_thinking else text, (), thinking)
        # the blanks before a text have been streamed with it
        lead = text[: len(text) - len(text.lstrip())] if reading.text else ""
        return ParsedAnswer(lead + reading.text, calls, thinking)

    def format_calls(self, parsed_answer: ParsedAnswer) -> list[dict[str, Any]]:
        return [
            {"id": self.served.create_tool_call_id(), "type": "function", "function": call}
            for call in parsed_answer.calls
        ]


class ToolCallStreamFilter:
    """Removes tool calls from the streamed text of one choice. Buffers text that may begin a tool call."""

    def __init__(self, offered_tools: OfferedTools) -> None:
        self.offered, self.form = offered_tools, offered_tools.served.form
        self.text, self.sent = "", 0

    def take_texts_ready_to_stream(self, texts: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Return the pairs (text, is_thinking) that can be sent now, and buffer the beginning of a
        possible tool call.
        """
        ready = []
        for text, is_thinking in texts:
            if is_thinking:
                ready.append((text, True))
                continue
            self.text += text
            end = len(self.text[: self.form.count_plain_prefix(self.text)].rstrip())
            ready.append((self.text[self.sent : end], False))
            self.sent = max(self.sent, end)
        return ready

    def get_unsent_texts(self, parsed_answer: ParsedAnswer) -> list[tuple[str, bool]]:
        """Return the part of the answer that was not streamed yet."""
        thinking = parsed_answer.thinking if self.offered.marks_thinking else None
        return [(thinking or "", True), (parsed_answer.content[self.sent :], False)]


class ToolSupport:
    """Describes a request's tools in the prompt, and parses the tool calls of a model."""

    def __init__(self, task: ServeConfig, chat_template: str | None, model_name: str) -> None:
        self.offer, self.template, self.model_name = task.tool_placement, chat_template, model_name
        shown = (
            None
            if task.tool_placement is ToolOffer.system
            else tool_calls.detect_tool_call_format(chat_template)
        )
        is_auto = task.tool_call_format == AUTO
        self.name = (shown or tool_calls.USUAL) if is_auto else task.tool_call_format
        self.form = tool_calls.import_tool_call_format(self.name)

    def parse_offered_tools(self, body: ChatBody) -> OfferedTools | None:
        functions = [_make_tool_schema(number, tool) for number, tool in enumerate(body.tools or ())]
        names = [function["name"] for function in functions]
        choice = "auto" if body.tool_choice is None else body.tool_choice
        if isinstance(choice, str) and choice not in CHOICES:
            need = format_unknown_choice_message("choice", choice, CHOICES)
            raise Refusal(400, f"tool_choice: {need}", "tool_choice")
        if not functions:
            if choice not in ("auto", "none"):
                raise Refusal(400, "tool_choice: no tools are offered", "tool_choice")
            return None
        if len(set(names)) < len(names):
            raise Refusal(400, "tools: two functions have the same name", "tools")
        if choice == "none":
            return None
        several, must = body.parallel_tool_calls is not False, names if choice == "required" else []
        if not isinstance(choice, str):
            must, several = [_get_required_function(choice, names)], False
        is_strict = any(tool.function and tool.function.strict for tool in body.tools or ())
        return OfferedTools(self, functions, must, several, is_strict)

    def build_messages_with_tools(
        self, messages: Sequence[Message], offered_tools: OfferedTools | None
    ) -> tuple[Message, ...]:
        """Return the messages for the model's prompt, including descriptions of the offered functions."""
        if self.offer is ToolOffer.system:
            functions = [] if offered_tools is None else offered_tools.functions
            return write_tools_as_text(messages, functions, self.form)
        if offered_tools is None:
            return tuple(messages)
        if self.template is not None and not chat_templates.template_supports_tools(self.template):
            raise Refusal(
                400,
                (
                    f"tools: the chat template of {self.model_name} does not support tools. Start the "
                    "server with task.tool_placement=system, which describes tools in the system message"
                ),
                "tools",
            )
        return (Message.from_tool_schemas(offered_tools.functions), *messages)

    def create_tool_call_id(self) -> str:
        """Return a new unique id for a tool call: nine letters and digits, as Mistral's template requires."""
        letters = string.ascii_letters + string.digits
        own = "".join(secrets.choice(letters) for _ in range(9 if self.name == "mistral" else 24))
        return own if self.name == "mistral" else f"call_{own}"


def _get_required_function(tool_choice: Chosen, function_names: Sequence[str]) -> str:
    if tool_choice.type != "function" or tool_choice.function is None:
        need = "tool_choice must be auto, none, required, or {'type': 'function', 'function': {'name': …}}"
        raise Refusal(400, f"tool_choice.type={tool_choice.type!r}: {need}", "tool_choice")
    name = tool_choice.function.name
    if name not in function_names:
        need = format_unknown_choice_message("function", name, function_names)
        raise Refusal(400, f"tool_choice.function.name: {need}", "tool_choice")
    return name


def _make_tool_schema(number: int, tool: Tool) -> dict[str, Any]:
    """Return a function's definition in the format that chat templates expect."""
    where = f"tools[{number}]"
    if tool.type != "function" or tool.function is None:
        need = "this server supports only functions: {'type': 'function', 'function': {…}}"
        raise Refusal(400, f"{where}.type={tool.type!r}: {need}", "tools")
    function = tool.function
    if not FUNCTION_NAME.fullmatch(function.name):
        need = "a function name has 1 to 128 letters, digits, dots, dashes and underscores"
        raise Refusal(400, f"{where}.function.name={function.name!r}: {need}", "tools")
    parameters = NO_PARAMETERS if function.parameters is None else function.parameters
    try:
        json.dumps(parameters, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        need = f"no JSON schema: {type(error).__name__}"
        raise Refusal(400, f"{where}.function.parameters: {need}", "tools") from error
    described = {} if function.description is None else {"description": function.description}
    return {"name": function.name, **described, "parameters": parameters}


def _serialize_call(call: tool_calls.ToolCall) -> dict[str, Any]:
    """Return the name and the JSON arguments of a tool call. Raises MalformedToolCall if JSON cannot
    represent a value.
    """
    try:
        arguments = json.dumps(call.arguments, ensure_ascii=False, allow_nan=False)
        f"{call.name}{arguments}".encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise tool_calls.MalformedToolCall(f"no JSON: {error}") from error
    return {"name": call.name, "arguments": arguments}
