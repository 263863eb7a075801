"""Writes the tools, calls and tool results of a chat as plain text, for chat templates without tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner_engine.sessions.base import Message
from runner_engine.tool_calls import ToolCall, ToolCallFormat, append_tools_to_system_message

RETURNED = "{name} returned:\n{content}"  # the turn of a result, where the template knows none


def write_tools_as_text(
    messages: Sequence[Message], schemas: Sequence[Mapping[str, Any]], call_format: ToolCallFormat
) -> tuple[Message, ...]:
    """Return a chat whose system message lists the tools. Results become messages of the user.

    Without schemas, the system message stays as it is.
    """
    plain: list[Message] = []
    for turn in messages:
        written = _convert_tool_message_to_text(turn, call_format)
        if turn.role == "tool" and plain and plain[-1].role == "user":
            plain[-1] = Message("user", f"{plain[-1].content}\n\n{written.content}")
        else:
            plain.append(written)
    if not schemas:
        return tuple(plain)
    has_system = bool(plain) and plain[0].role == "system"
    system = plain[0].content if has_system else None
    words = append_tools_to_system_message(schemas, call_format, system)
    return (Message("system", words), *plain[has_system:])


def _convert_tool_message_to_text(message: Message, call_format: ToolCallFormat) -> Message:
    values = message.to_dict()
    if message.role == "tool":
        name = values.get("name") or "the function"
        return Message("user", RETURNED.format(name=name, content=message.content))
    calls = [call["function"] for call in values.get("tool_calls", ())]
    if not calls:
        return message
    written = call_format.format_calls([ToolCall(call["name"], call["arguments"]) for call in calls])
    text = f"{message.content}\n{written}" if message.content else written
    return Message(message.role, text, message.thinking)
