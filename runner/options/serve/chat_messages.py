"""Converts chat messages of a request to the engine's format: text, tool calls and tool results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runner.options.serve.bodies import ROLES, ChatMessage
from runner.options.serve.refusals import Refusal
from runner_base import unknown_choice_message
from runner_engine import Message

# the roles whose messages may have these
OF_ROLE = {"tool_calls": "assistant", "tool_call_id": "tool", "name": "tool"}


def convert_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Return a conversation in the engine's format. Each tool result gets the name of the function
    that was called.
    """
    names: dict[str, str] = {}
    turns = []
    for number, message in enumerate(messages):
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turns.append(_convert_message(f"messages[{number}]", message, names))
    return tuple(turns)


def _convert_message(location: str, message: ChatMessage, function_names: dict[str, str]) -> Message:
    """Return a chat message in the engine's format."""
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], "", {}):
            need = (
                "unknown key. A message may have role, content, reasoning_content, "
                "tool_calls, tool_call_id and name"
            )
            raise Refusal(400, f"{location}.{name}: {need}", "messages")
    role = message.role
    if role not in ROLES:
        raise Refusal(400, f"{location}.role: {unknown_choice_message('role', role, ROLES)}", "messages")
    for name, owner in OF_ROLE.items():
        if getattr(message, name) and role != owner:
            raise Refusal(
                400, f"{location}.{name}: only a message of role {owner} may have it, not {role}", "messages"
            )
    content = _join_text_parts(location, message)
    thinking = message.reasoning_content or message.reasoning
    if thinking and role != "assistant":
        raise Refusal(
            400,
            f"{location}.reasoning_content: only a message of role assistant may have it, not {role}",
            "messages",
        )
    # an answer may be cut off before it begins, or be nothing but calls
    if content is None and not thinking and not message.tool_calls:
        raise Refusal(400, f"{location}.content: give a text", "messages")
    if role == "tool":
        if not message.tool_call_id:
            need = "give the id of the tool call that produced this result"
            raise Refusal(400, f"{location}.tool_call_id: {need}", "messages")
        known = message.name or function_names.get(message.tool_call_id)
        return Message(role, content or "", call_id=message.tool_call_id, name=known)
    calls = json.dumps(_convert_tool_calls(location, message), ensure_ascii=False)
    return Message(ROLES[role], content or "", thinking, calls)


def _join_text_parts(location: str, message: ChatMessage) -> str | None:
    """Return the text of a chat message, joined if the message consists of several parts."""
    content = message.content
    if not isinstance(content, list):
        return content
    other = next((part.type for part in content if part.type != "text" or part.text is None), None)
    if other is not None:
        need = f"a part of type {other!r}: this server reads only text"
        raise Refusal(400, f"{location}.content: {need}", "messages")
    return "".join(part.text or "" for part in content)


def _convert_tool_calls(location: str, message: ChatMessage) -> list[dict[str, Any]]:
    """Return the tool calls of a message with their arguments parsed to JSON objects."""
    calls = []
    for number, call in enumerate(message.tool_calls or ()):
        place = f"{location}.tool_calls[{number}]"
        if call.type != "function":
            need = f"{call.type!r}: this server supports only functions"
            raise Refusal(400, f"{place}.type={need}", "messages")
        try:
            arguments = json.loads(call.function.arguments or "{}")
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            need = "give a JSON object as a string"
            raise Refusal(400, f"{place}.function.arguments: {need}", "messages")
        function = {"name": call.function.name, "arguments": arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    return calls
