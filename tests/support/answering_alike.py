"""An engine's answers to a few prompts, of which each must be the same whatever other prompts go
along."""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests

PROMPTS = ("a", "What is three times four?", "b c d e f " * 9, "x" * 33)


def answers(engine: LocalEngine, prompts: Sequence[str] = PROMPTS) -> list[tuple[int, ...]]:
    """Return the tokens of the answers, all asked for at once."""
    requests = [Request(at, text, (), 12, ignore_eos=True) for at, text in enumerate(prompts)]
    found = {
        completion.id: tuple(completion.answer.token_ids)
        for completion in complete_requests(engine, requests)
    }
    return [found[at] for at in range(len(prompts))]


def check_answers_alike(engine: LocalEngine) -> None:
    """Compare the answers to all prompts together with those to each alone."""
    assert answers(engine) == [answers(engine, [prompt])[0] for prompt in PROMPTS]
