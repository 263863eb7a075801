"""Results of model calls from Python: an answer with its tokens, or log-probabilities of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner_base import FinishReason, JobFailed
from runner_engine import Completion


class Answer(str):
    """A model's answer: text, thinking, token ids, finish reason and seconds."""

    thinking: str | None  # None: nothing
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    seconds: float
    choices: list[Answer]  # all n answers; the first is this one

    @classmethod
    def from_completions(cls, completions: Sequence[Completion]) -> Answer:
        """Return the answer to one request. Its `choices` contains all answers to the request."""
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
    """Log-probability (natural logarithm) of each token in a continuation."""

    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]  # whether the token is the model's most probable one

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.logprobs)


class Unanswered(JobFailed):
    """Error for a call in which requests failed. `answers` contains None for each failed request."""

    def __init__(self, message: str, answers: list[Any]) -> None:
        super().__init__(message, code="failed")
        self.answers = answers


def scores_from_completions(completions: list[list[Completion]]) -> list[Scores]:
    return [
        Scores(completion.answer.token_ids, completion.logprobs or [], completion.greedy or [])
        for (completion,) in completions
    ]
