"""Functions that a request offers: how the model sees them, and what its answer calls.

The forms in which models write calls are the engine's. What begins as a call and is none is the
answer's text, as the model wrote it.
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
from runner_base import Answer, unknown
from runner_engine import Message, tool_calls
from runner_engine.checkpoints import chat_templates

FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
CHOICES = ("auto", "none", "required")
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
RETURNED = "{name} returned:\n{content}"  # the turn of a result, where the template knows none


@dataclass(frozen=True)
class Said:
    """What an answer says and calls."""

    content: str
    calls: tuple[dict[str, Any], ...] = ()  # name, and arguments as JSON
    thinking: str | None = None  # None: there was none


class Offered:
    """The functions of one request, and what its answers call."""

    def __init__(
        self,
        served: ServedTools,
        functions: Sequence[dict[str, Any]],
        must: Sequence[str] = (),
        several: bool = True,
        is_strict: bool = False,
    ) -> None:
        """must: the functions of which one must be called; empty: the model decides. several:
        there may be several calls. is_strict: calls are held to the schemas."""
        self.served, self.functions, self.must = served, functions, must
        self.several, self.is_strict = several, is_strict

    @property
    def rules(self) -> str | None:
        """The rules of a grammar with these calls; None if nothing holds them."""
        if not (self.must or self.is_strict or not self.several):
            return None
        among = [one for one in self.functions if not self.must or one["name"] in self.must]
        return self.served.form.grammar(among, self.several, self.served.template)

    @property
    def is_raw(self) -> bool:
        """Whether the form marks thinking itself."""
        return self.served.form.IS_RAW

    def read(self, answer: Answer) -> Said:
        """Return what an answer says and calls; what is no whole call is text."""
        parts = answer.parts
        thinking = parts.thinking if parts.has_thinking else None
        if parts.is_open:
            return Said("", (), thinking)
        text = parts.answer
        try:
            reading = self.served.form.read(text, self.functions)
            calls = tuple(_written(call) for call in reading.calls)
        except tool_calls.Malformed:
            return Said(text, (), thinking)
        thinking = reading.thinking if reading.thinking else thinking
        if not calls:
            return Said(reading.text if self.is_raw else text, (), thinking)
        # the blanks before a text have been streamed with it
        lead = text[: len(text) - len(text.lstrip())] if reading.text else ""
        return Said(lead + reading.text, calls, thinking)

    def called(self, said: Said) -> list[dict[str, Any]]:
        """Return the calls of an answer as a message has them."""
        return [{"id": self.served.call_id(), "type": "function", "function": call} for call in said.calls]


class TextsBesideCalls:
    """The texts of a choice in a stream: what may become a call waits for the end."""

    def __init__(self, offered: Offered) -> None:
        self.offered, self.form = offered, offered.served.form
        self.text, self.sent = "", 0

    def take(self, new: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Return what can be sent of new texts, each with whether it is thinking."""
        ready = []
        for text, is_thinking in new:
            if is_thinking:
                ready.append((text, True))
                continue
            self.text += text
            end = len(self.text[: self.form.free(self.text)].rstrip())
            ready.append((self.text[self.sent : end], False))
            self.sent = max(self.sent, end)
        return ready

    def rest(self, said: Said) -> list[tuple[str, bool]]:
        """Return what was not sent of an answer that has ended."""
        thinking = said.thinking if self.offered.is_raw else None
        return [(thinking or "", True), (said.content[self.sent :], False)]


class ServedTools:
    """How a server offers functions, and in which form its model writes calls."""

    def __init__(self, task: ServeConfig, template: str | None, model_name: str) -> None:
        self.offer, self.template, self.model_name = task.tool_offer, template, model_name
        shown = None if task.tool_offer is ToolOffer.system else tool_calls.name_for(template)
        is_auto = task.tool_form == AUTO
        self.name = (shown or tool_calls.USUAL) if is_auto else task.tool_form
        self.form = tool_calls.form_named(self.name)

    def offered(self, body: ChatBody) -> Offered | None:
        """Return the functions that a request offers; None if it offers none."""
        functions = [_function(number, tool) for number, tool in enumerate(body.tools or ())]
        names = [function["name"] for function in functions]
        choice = "auto" if body.tool_choice is None else body.tool_choice
        if isinstance(choice, str) and choice not in CHOICES:
            need = unknown("choice", choice, CHOICES)
            raise Refusal(400, f"tool_choice: {need}", "tool_choice")
        if not functions:
            if choice not in ("auto", "none"):
                raise Refusal(400, "tool_choice: no tools are offered", "tool_choice")
            return None
        if len(set(names)) < len(names):
            raise Refusal(400, "tools: two functions have one name", "tools")
        if choice == "none":
            return None
        several, must = body.parallel_tool_calls is not False, names if choice == "required" else []
        if not isinstance(choice, str):
            must, several = [_chosen(choice, names)], False
        is_strict = any(tool.function and tool.function.strict for tool in body.tools or ())
        return Offered(self, functions, must, several, is_strict)

    def prompt(self, turns: Sequence[Message], offered: Offered | None) -> tuple[Message, ...]:
        """Return a conversation as the model gets it, with the functions that are offered."""
        if self.offer is ToolOffer.system:
            return self._in_words(turns, offered)
        if offered is None:
            return tuple(turns)
        if self.template is not None and not chat_templates.takes_tools(self.template):
            raise Refusal(
                400,
                f"tools: the chat template of {self.model_name} takes no tools: start the server "
                "with task.tool_offer=system, which offers them in the system message",
                "tools",
            )
        return (Message.offering(offered.functions), *turns)

    def _in_words(self, turns: Sequence[Message], offered: Offered | None) -> tuple[Message, ...]:
        """Return a conversation for a template that knows neither functions nor their results."""
        plain: list[Message] = []
        for turn in turns:
            written = self._plain(turn)
            if turn.role == "tool" and plain and plain[-1].role == "user":
                plain[-1] = Message("user", f"{plain[-1].content}\n\n{written.content}")
            else:
                plain.append(written)
        if offered is None:
            return tuple(plain)
        has_system = bool(plain) and plain[0].role == "system"
        system = plain[0].content if has_system else None
        words = tool_calls.in_system(offered.functions, self.form, system)
        return (Message("system", words), *plain[has_system:])

    def _plain(self, turn: Message) -> Message:
        """Return a turn without calls and results, which its text has instead."""
        values = turn.as_dict()
        if turn.role == "tool":
            name = values.get("name") or "the function"
            return Message("user", RETURNED.format(name=name, content=turn.content))
        calls = [call["function"] for call in values.get("tool_calls", ())]
        if not calls:
            return turn
        written = self.form.write([tool_calls.ToolCall(call["name"], call["arguments"]) for call in calls])
        text = f"{turn.content}\n{written}" if turn.content else written
        return Message(turn.role, text, turn.thinking)

    def call_id(self) -> str:
        """Return an id that no other call has; Mistral's template takes nine letters and digits."""
        letters = string.ascii_letters + string.digits
        own = "".join(secrets.choice(letters) for _ in range(9 if self.name == "mistral" else 24))
        return own if self.name == "mistral" else f"call_{own}"


def _chosen(choice: Chosen, names: Sequence[str]) -> str:
    """Return the name of the function that must be called."""
    if choice.type != "function" or choice.function is None:
        need = "give auto, none, required, or {'type': 'function', 'function': {'name': …}}"
        raise Refusal(400, f"tool_choice.type={choice.type!r}: {need}", "tool_choice")
    name = choice.function.name
    if name not in names:
        need = unknown("function", name, names)
        raise Refusal(400, f"tool_choice.function.name: {need}", "tool_choice")
    return name


def _function(number: int, tool: Tool) -> dict[str, Any]:
    """Return an offered function as chat templates get it."""
    where = f"tools[{number}]"
    if tool.type != "function" or tool.function is None:
        need = "this server knows only functions: {'type': 'function', 'function': {…}}"
        raise Refusal(400, f"{where}.type={tool.type!r}: {need}", "tools")
    function = tool.function
    if not FUNCTION_NAME.fullmatch(function.name):
        need = "give up to 128 letters, digits, dots, dashes and underscores"
        raise Refusal(400, f"{where}.function.name={function.name!r}: {need}", "tools")
    parameters = NO_PARAMETERS if function.parameters is None else function.parameters
    try:
        json.dumps(parameters, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        need = f"no JSON schema: {type(error).__name__}"
        raise Refusal(400, f"{where}.function.parameters: {need}", "tools") from error
    described = {} if function.description is None else {"description": function.description}
    return {"name": function.name, **described, "parameters": parameters}


def _written(call: tool_calls.ToolCall) -> dict[str, Any]:
    """Return a call's name and arguments as texts; Malformed if JSON cannot express them."""
    try:
        arguments = json.dumps(call.arguments, ensure_ascii=False, allow_nan=False)
        f"{call.name}{arguments}".encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise tool_calls.Malformed(f"no JSON: {error}") from error
    return {"name": call.name, "arguments": arguments}
