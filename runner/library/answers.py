"""What a model answers to Python code: a text with its tokens, or how probable a text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner_base import FinishReason, JobFailed
from runner_engine import Completion


class Answer(str):
    """The model's answer: a text with its token ids, finish reason and time, and what the model
    thought before it."""

    thinking: str | None  # None: nothing
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    seconds: float
    choices: list[Answer]  # all n answers; the first is this one

    @classmethod
    def of(cls, completions: Sequence[Completion]) -> Answer:
        """Return the answers to one request."""
        choices: list[Answer] = []
        for completion in sorted(completions, key=lambda completion: completion.choice):
            parts = completion.answer.parts
            answer = cls(parts.answer)
            answer.thinking = parts.thinking if parts.has_thinking else None
            answer.token_ids, answer.finish_reason = (
                completion.answer.token_ids,
                completion.answer.finish_reason,
            )
            answer.prompt_tokens, answer.seconds = completion.prompt_tokens, completion.seconds
            choices.append(answer)
            answer.choices = choices
        return choices[0]


@dataclass(frozen=True)
class Scores:
    """How probable a continuation is: a natural logarithm for each of its tokens."""

    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]  # whether the token is the model's most probable one

    @property
    def total(self) -> float:
        """The logarithm of the whole continuation's probability."""
        return sum(self.logprobs)


class Unanswered(JobFailed):
    """Some requests of a call ended in an error; `answers` has the others, and None for these."""

    def __init__(self, message: str, answers: list[Any]) -> None:
        super().__init__(message, code="failed")
        self.answers = answers


def scores_of(completions: list[list[Completion]]) -> list[Scores]:
    """Return how probable the one continuation of each request is."""
    return [
        Scores(completion.answer.token_ids, completion.logprobs or [], completion.greedy or [])
        for (completion,) in completions
    ]
