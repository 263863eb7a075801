"""The answers of several seeds to the same questions, as one set of answers."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.data import Answers, QuestionOutcome


def mean_answers(parts: Sequence[Answers]) -> Answers:
    """Return how many answers of all seeds to each question are right: it is solved if more than
    half are."""
    mean: Answers = {}
    for question, first in parts[0].items():
        outcomes = [of_seed[question] for of_seed in parts]
        right = sum(outcome.right[0] if outcome.right[1] else outcome.solved for outcome in outcomes)
        answers = sum(outcome.samples for outcome in outcomes)
        cut_off = sum(outcome.cut_off for outcome in outcomes)
        mean[question] = QuestionOutcome(
            2 * right > answers,
            first.prompt,
            first.cluster,
            (right, answers),
            cut_off=cut_off,
            recall=first.recall,
            tools=first.tools,
        )
    return mean
