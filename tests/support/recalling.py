"""A model that finds every needle in what it remembers of a prompt, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scripted import Reply

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.tasks.recall import task as recall
from runner.tasks.recall.placement import render_cases_with_fitting_filler
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


def distinct_beginnings(prompts: Iterable[Sequence[int]]) -> int:
    """Return how many tokens must be read if each common beginning is read once."""
    root: dict[int, Any] = {}
    count = 0
    for prompt in prompts:
        node = root
        for token in prompt:
            count += token not in node
            node = node.setdefault(token, {})
    return count


def prompts_of(config: RunnerConfig) -> list[Sequence[int]]:
    """Return the tokens of each prompt of a job."""
    inputs, resolved = recall.prepare(config), resolve_job(config)
    requests = recall.build_requests(
        inputs.task, render_cases_with_fitting_filler(inputs.task, inputs.units, resolved)
    )
    return [
        ids
        for _, ids in get_model_kind(config.model).encode_prompts(
            resolved, [request.prompt for request in requests]
        )
    ]
