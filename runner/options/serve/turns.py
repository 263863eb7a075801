"""The messages of a conversation in the engine's form: what is said, called, and returned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runner.options.serve.bodies import ROLES, ChatMessage
from runner.options.serve.refusals import Refusal
from runner_base import unknown
from runner_engine import Message

# the roles whose messages may have these
OF_ROLE = {"tool_calls": "assistant", "tool_call_id": "tool", "name": "tool"}


def turns_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Return the turns of a conversation; a result gets the name of the function that was called."""
    names: dict[str, str] = {}
    turns = []
    for number, message in enumerate(messages):
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turns.append(_turn(f"messages[{number}]", message, names))
    return tuple(turns)


def _turn(where: str, message: ChatMessage, names: dict[str, str]) -> Message:
    """Return a message in the engine's form."""
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], "", {}):
            need = (
                "this server reads only role, content, reasoning_content, tool_calls, "
                "tool_call_id and name of a message"
            )
            raise Refusal(400, f"{where}.{name}: {need}", "messages")
    role = message.role
    if role not in ROLES:
        raise Refusal(400, f"{where}.role: {unknown('role', role, ROLES)}", "messages")
    for name, owner in OF_ROLE.items():
        if getattr(message, name) and role != owner:
            raise Refusal(400, f"{where}.{name}: goes with role {owner}, not {role}", "messages")
    content = _content(where, message)
    thinking = message.reasoning_content or message.reasoning
    if thinking and role != "assistant":
        raise Refusal(400, f"{where}.reasoning_content: it is the assistant's, not the {role}'s", "messages")
    # an answer may be cut off before it begins, or be nothing but calls
    if content is None and not thinking and not message.tool_calls:
        raise Refusal(400, f"{where}.content: give a text", "messages")
    if role == "tool":
        if not message.tool_call_id:
            need = "give the id of the call whose result this is"
            raise Refusal(400, f"{where}.tool_call_id: {need}", "messages")
        known = message.name or names.get(message.tool_call_id)
        return Message(role, content or "", call_id=message.tool_call_id, name=known)
    calls = json.dumps(_calls(where, message), ensure_ascii=False)
    return Message(ROLES[role], content or "", thinking, calls)


def _content(where: str, message: ChatMessage) -> str | None:
    """Return a message's text, of whatever parts it consists."""
    content = message.content
    if not isinstance(content, list):
        return content
    other = next((part.type for part in content if part.type != "text" or part.text is None), None)
    if other is not None:
        need = f"a part of type {other!r}: this server reads only text"
        raise Refusal(400, f"{where}.content: {need}", "messages")
    return "".join(part.text or "" for part in content)


def _calls(where: str, message: ChatMessage) -> list[dict[str, Any]]:
    """Return the calls of a turn, with their arguments as an object."""
    calls = []
    for number, call in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{number}]"
        if call.type != "function":
            need = f"{call.type!r}: this server knows only functions"
            raise Refusal(400, f"{place}.type={need}", "messages")
        try:
            arguments = json.loads(call.function.arguments or "{}")
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            need = "give an object of JSON, as text"
            raise Refusal(400, f"{place}.function.arguments: {need}", "messages")
        function = {"name": call.function.name, "arguments": arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    return calls
