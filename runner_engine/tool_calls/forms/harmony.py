"""Tool calls in gpt-oss's harmony format. Each call is a message that is addressed to a function.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
<|constrain|>json <|message|>{"a": 1}<|call|>
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner_base import ConfigError
from runner_engine.tool_calls.calls import (
    MalformedToolCall,
    ParsedAnswer,
    Schemas,
    ToolCall,
    format_arguments,
    parse_call_arguments,
)

START, CHANNEL, MESSAGE, CALL, END = ("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|end|>")
MARKS = ((CHANNEL, MESSAGE, "functions."),)
IS_RAW = True
ENDS = re.compile(r"<\|(?:end|call|return)\|>")
RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<\||$)")
NAMESPACE = "functions."


def parse_answer(answer: str, schemas: Schemas = ()) -> ParsedAnswer:  # noqa: ARG001
    """Split an answer into tool calls, thinking (the analysis channel) and the remaining text."""
    calls, said, thoughts = list[ToolCall](), list[str](), list[str]()
    for header, content in _iter_harmony_messages(answer):
        if recipient := RECIPIENT.search(header):
            name = recipient[1].removeprefix(NAMESPACE)
            calls.append(ToolCall(name, parse_call_arguments(name, content)))
        elif f"{CHANNEL}analysis" in header:
            thoughts.append(content)
        else:
            said.append(content)
    return ParsedAnswer(tuple(calls), "\n".join(said).strip(), "\n".join(thoughts))


def _iter_harmony_messages(answer: str) -> Iterator[tuple[str, str]]:
    """Yield the header and content of each message.

    The prompt contains the beginning of the first message.
    """
    for part in answer.split(START):
        header, mark, content = part.partition(MESSAGE)
        if not mark:
            if RECIPIENT.search(header):
                raise MalformedToolCall(f"{MESSAGE} is missing behind {header.strip()[:40]!r}")
            yield "", ENDS.sub("", header)
            continue
        found = ENDS.search(content)
        body, rest = (content[: found.start()], content[found.end() :]) if found else (content, "")
        if rest.strip():
            raise MalformedToolCall(f"text follows the end of a message: {rest.strip()[:40]!r}")
        yield header, body


def format_calls(calls: Sequence[ToolCall]) -> str:
    """Format each tool call as a message.

    The beginning of the first message is omitted, because it is part of the prompt.
    """
    written = (
        f"{CHANNEL}commentary to={NAMESPACE}{call.name} <|constrain|>json{MESSAGE}{format_arguments(call)}"
        for call in calls
    )
    return f"{CALL}{START}assistant".join(written)


def count_plain_prefix(answer: str) -> int:  # noqa: ARG001
    """Return 0, because text can be separated from calls and thinking only after the answer has ended."""
    return 0


def build_grammar(schemas: Schemas, allow_multiple: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Raise ConfigError, because no grammar can constrain the harmony format."""
    raise ConfigError(
        "a grammar cannot constrain the format harmony, which mixes thinking, text and calls",
        code="unsupported",
    )
