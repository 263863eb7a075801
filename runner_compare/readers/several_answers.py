"""Samples that were answered several times: what counts is the share of their answers that is
right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from runner_compare.model.answer_votes import Votes
from runner_compare.readers.tool_run import ToolSample

LONGEST_VOTE = 100  # characters


def joined(answers: Iterable[ToolSample], can_vote: bool = True) -> list[ToolSample]:
    """Return each sample once, by its id; the number is the mean of its answers' numbers.

    A sample is called right, where a single word is needed, if more than half of its answers are.
    Programs cannot vote: two that are right need not be alike.
    """
    by_sample: dict[str, list[ToolSample]] = {}
    for answer in answers:
        by_sample.setdefault(answer.sample_id, []).append(answer)
    return [_joined(several, can_vote) if len(several) > 1 else several[0] for several in by_sample.values()]


def _joined(answers: list[ToolSample], can_vote: bool) -> ToolSample:
    solved = sum(answer.solved for answer in answers)
    numbers = [answer.number for answer in answers if answer.number is not None]
    votes = None
    if can_vote:
        votes = votes_of([(answer.answer, answer.solved, answer.text) for answer in answers])
    return replace(
        answers[0],
        solved=2 * solved > len(answers),
        has_error=any(answer.has_error for answer in answers),
        right=(solved, len(answers)),
        votes=votes,
        number=math.fsum(numbers) / len(answers) if len(numbers) == len(answers) else None,
    )


def votes_of(answers: Iterable[tuple[str | None, bool, str]]) -> Votes | None:
    """Return how answers vote, each as what was extracted from it, whether it is right, and its
    text.

    None where that is not known: nothing was extracted from a right answer, or its whole text, or
    so much that no other answer repeats it.
    """
    known = list(answers)
    of_right = [(said, text) for said, is_right, text in known if is_right]
    if any(said is None or said == text or len(said) > LONGEST_VOTE for said, text in of_right):
        return None
    return Votes.of((said, is_right) for said, is_right, _ in known)
