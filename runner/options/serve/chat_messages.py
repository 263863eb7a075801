"""Converts chat messages of a request to the engine's format: text, tool calls and tool results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runner.options.serve.bodies import ROLES, ChatMessage
from runner.options.serve.refusals import Refusal
from runner_base import format_unknown_choice_message
from runner_engine import Message

# the roles whose messages may have these
OF_ROLE = {"tool_calls": "assistant", "tool_call_id": "tool", "name": "tool"}


def convert_chat_to_engine_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Convert chat messages to the engine's format. Adds the function name to each tool result."""
    names: dict[str, str] = {}
    turns = []
    for number, message in enumerate(messages):
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turns.append(_validate_and_convert_chat_message(f"messages[{number}]", message, names))
    return tuple(turns)


def _validate_and_convert_chat_message(
    location: str, message: ChatMessage, function_names: dict[str, str]
) -> Message:
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], "", {}):
            need = (
                "unknown key. A message may have role, content, reasoning_content, "
                "tool_calls, tool_call_id and name"
            )
            raise Refusal(400, f"{location}.{name}: {need}", "messages")
    role = message.role
    if role not in ROLES:
        raise Refusal(
            400, f"{location}.role: {format_unknown_choice_message('role', role, ROLES)}", "messages"
        )
    for name, owner in OF_ROLE.items():
        if getattr(message, name) and role != owner:
            raise Refusal(
                400, f"{location}.{name}: not allowed for role {role}, only for role {owner}", "messages"
            )
    content = _join_message_text_parts(location, message)
    thinking = message.reasoning_content or message.reasoning
    if thinking and role != "assistant":
        raise Refusal(
            400,
            f"{location}.reasoning_content: not allowed for role {role}, only for role assistant",
            "messages",
        )
    # an answer may be cut off before it begins, or be nothing but calls
    if content is None and not thinking and not message.tool_calls:
        raise Refusal(400, f"{location}.content: give a text", "messages")
    if role == "tool":
        if not message.tool_call_id:
            need = "the tool message needs the id of its tool call"
            raise Refusal(400, f"{location}.tool_call_id: {need}", "messages")
        known = message.name or function_names.get(message.tool_call_id)
        return Message(role, content or "", call_id=message.tool_call_id, name=known)
    calls = json.dumps(_convert_tool_calls(location, message), ensure_ascii=False)
    return Message(ROLES[role], content or "", thinking, calls)


def _join_message_text_parts(location: str, message: ChatMessage) -> str | None:
    content = message.content
    if not isinstance(content, list):
        return content
    other = next((part.type for part in content if part.type != "text" or part.text is None), None)
    if other is not None:
        need = f"content of type {other!r} is not supported, only text"
        raise Refusal(400, f"{location}.content: {need}", "messages")
    return "".join(part.text or "" for part in content)


def _convert_tool_calls(location: str, message: ChatMessage) -> list[dict[str, Any]]:
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
            need = "the arguments must be a string that contains a JSON object"
            raise Refusal(400, f"{place}.function.arguments: {need}", "messages")
        function = {"name": call.function.name, "arguments": arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    return calls
