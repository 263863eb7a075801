"""A model that finds every needle in what it remembers of a prompt, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable

from scripted import Reply

from runner_base.result import FinishReason
from runner_engine.sessions.base import Message, Request

NEEDLE = re.compile(r"special magic \w+ for (\S+) is: (\S+)\.(?:\s|$)")
ASKED = re.compile(r"special magic (?:\w+) for (.+?) mentioned in the provided text\?")


def text_of(request: Request) -> str:
    """Return the prompt of a request as text."""
    prompt = request.prompt
    return (
        prompt
        if isinstance(prompt, str)
        else "\n".join(it.content for it in prompt if isinstance(it, Message))
    )


def remembering(characters: int | None = None) -> Callable[[Request], Reply]:
    """Return what answers with the asked values that stand in the last characters of a prompt;
    None: in all of it."""

    def answer(request: Request) -> Reply:
        text = text_of(request)
        seen = NEEDLE.findall(text if characters is None else text[-characters:])
        keys = re.split(r", and |, ", ASKED.findall(text)[-1])
        values = [value for key, value in seen if key in keys]
        return f"It is {' and '.join(values)}." if values else "I do not know.", FinishReason.stop

    return answer
