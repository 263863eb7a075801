"""Lists the available functions as JSON in the system message.

This is for chat templates that ignore tool definitions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner_engine.tool_calls.calls import ToolCall

if TYPE_CHECKING:
    from runner_engine.tool_calls.forms import ToolCallFormat

IN_SYSTEM = """You may call functions. These are offered, as JSON:
{tools}

If some of them do what the user asks for, answer with nothing but calls, such as:
{example}
If none does, call nothing, and answer in words."""
EXAMPLE = (ToolCall("function_name", {"parameter": "value"}), ToolCall("other_function", {"parameter": 1}))


def append_tools_to_system_message(
    schemas: Sequence[Mapping[str, Any]], call_format: ToolCallFormat, system_message: str | None = None
) -> str:
    tools = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas)
    words = IN_SYSTEM.format(tools=tools, example=call_format.format_calls(EXAMPLE))
    return f"{system_message}\n\n{words}" if system_message else words
