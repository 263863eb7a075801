"""Combines the answers of several seeds to the same questions."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.data import Answers, QuestionOutcome


def combine_seed_answers(answers_by_seed: Sequence[Answers]) -> Answers:
    """Sum the correct answers over all seeds. A question counts as solved if more than half are
    correct.
    """
    mean: Answers = {}
    for question, first in answers_by_seed[0].items():
        outcomes = [of_seed[question] for of_seed in answers_by_seed]
        right = sum(outcome.right[0] if outcome.right[1] else outcome.solved for outcome in outcomes)
        answers = sum(outcome.num_answers for outcome in outcomes)
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
