"""Merge several answers to the same sample into one accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from runner_compare.model.repeated_answers import AnswerVotes
from runner_compare.readers.tool_run import ToolSample

LONGEST_VOTE = 100  # characters


def merge_repeated_answers(samples: Iterable[ToolSample], can_vote: bool = True) -> list[ToolSample]:
    """Merge samples with equal ids into one sample, whose numbers are the means.

    Where a single verdict is needed, a sample is correct if more than half of its answers are.
    Programs cannot vote (`can_vote`): two correct ones need not be equal.
    """
    by_sample: dict[str, list[ToolSample]] = {}
    for answer in samples:
        by_sample.setdefault(answer.sample_id, []).append(answer)
    return [
        _merge_answers_into_sample(several, can_vote) if len(several) > 1 else several[0]
        for several in by_sample.values()
    ]


def _merge_answers_into_sample(answers: list[ToolSample], can_vote: bool) -> ToolSample:
    solved = sum(answer.solved for answer in answers)
    numbers = [answer.number for answer in answers if answer.number is not None]
    votes = None
    if can_vote:
        votes = count_votes([(answer.answer, answer.solved, answer.text) for answer in answers])
    return replace(
        answers[0],
        solved=2 * solved > len(answers),
        has_error=any(answer.has_error for answer in answers),
        right=(solved, len(answers)),
        votes=votes,
        number=math.fsum(numbers) / len(answers) if len(numbers) == len(answers) else None,
    )


def count_votes(answers: Iterable[tuple[str | None, bool, str]]) -> AnswerVotes | None:
    """Count the votes of answers. Each answer is a tuple of extracted answer, verdict and text.

    Returns None if votes are unknown: nothing was extracted from a correct answer, or its whole
    text, or so much that no other answer repeats it.
    """
    known = list(answers)
    of_right = [(said, text) for said, is_right, text in known if is_right]
    if any(said is None or said == text or len(said) > LONGEST_VOTE for said, text in of_right):
        return None
    return AnswerVotes.from_answers((said, is_right) for said, is_right, _ in known)
