"""gpt-oss: messages to functions, beside those of its thinking and its answer.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
<|constrain|>json <|message|>{"a": 1}<|call|>
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner_base import ConfigError
from runner_engine.tool_calls.calls import (
    Malformed,
    Reading,
    Schemas,
    ToolCall,
    arguments_of,
    written_arguments,
)

START, CHANNEL, MESSAGE, CALL, END = ("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|end|>")
MARKS = ((CHANNEL, MESSAGE, "functions."),)
IS_RAW = True
ENDS = re.compile(r"<\|(?:end|call|return)\|>")
RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<\||$)")
NAMESPACE = "functions."


def read(text: str, schemas: Schemas = ()) -> Reading:  # noqa: ARG001
    """Return the messages to functions as calls, those of the channel analysis as thinking, and all
    others as text."""
    calls, said, thoughts = list[ToolCall](), list[str](), list[str]()
    for header, content in _messages(text):
        if recipient := RECIPIENT.search(header):
            name = recipient[1].removeprefix(NAMESPACE)
            calls.append(ToolCall(name, arguments_of(name, content)))
        elif f"{CHANNEL}analysis" in header:
            thoughts.append(content)
        else:
            said.append(content)
    return Reading(tuple(calls), "\n".join(said).strip(), "\n".join(thoughts))


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """Yield header and content of each message; the prompt has written the beginning of the first
    one."""
    for part in text.split(START):
        header, mark, content = part.partition(MESSAGE)
        if not mark:
            if RECIPIENT.search(header):
                raise Malformed(f"{MESSAGE} is missing behind {header.strip()[:40]!r}")
            yield "", ENDS.sub("", header)
            continue
        found = ENDS.search(content)
        body, rest = (content[: found.start()], content[found.end() :]) if found else (content, "")
        if rest.strip():
            raise Malformed(f"text behind the end of a message: {rest.strip()[:40]!r}")
        yield header, body


def write(calls: Sequence[ToolCall]) -> str:
    """Return calls, each as a message, of which the prompt has begun the first."""
    written = (
        f"{CHANNEL}commentary to={NAMESPACE}{call.name} <|constrain|>json{MESSAGE}{written_arguments(call)}"
        for call in calls
    )
    return f"{CALL}{START}assistant".join(written)


def free(text: str) -> int:  # noqa: ARG001
    """Return 0: what a message is for stands before it, and thinking is told from it at the end."""
    return 0


def grammar(schemas: Schemas, several: bool = True, template: str | None = None) -> str:  # noqa: ARG001
    """Refuse: thinking, answer and calls are messages of one text."""
    raise ConfigError(
        "calls cannot be held in the form harmony: what a message is for stands within the answer",
        code="unsupported",
    )
