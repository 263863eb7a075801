"""Counts answers, calls and tokens per model for jobs with several models, such as model=hybrid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from runner_base.result import Response


def count_answers_by_model(answers: Iterable[Response]) -> dict[str, float]:
    """Count the answers, calls and tokens of each model in a job with several models.

    `by` names the model that gave an answer. Answers that only one model can give do not count.
    """
    counts: Counter[str] = Counter()
    for response in answers:
        for call in response.calls or [] if response.by is not None else []:
            counts.setdefault(f"{call.who}_answers", 0)
            counts[f"{call.who}_calls"] += 1
            counts[f"{call.who}_prompt_tokens"] += call.prompt_tokens
            counts[f"{call.who}_new_tokens"] += call.answer.num_tokens
        if response.calls and response.by is not None and not response.failed:
            counts[f"{response.by}_answers"] += 1
    return dict(counts)


def describe_answering_models(answers: Iterable[Response]) -> str:
    """Describe how many answers each model gave. Empty if only one model can answer."""
    given = Counter(answer.by for answer in answers if answer.by is not None and not answer.failed)
    return ", ".join(f"{who} {number}" for who, number in given.most_common())
