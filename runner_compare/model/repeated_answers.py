"""Metrics of several answers per question: pass@k, maj@k and pass^k, computed from votes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from runner_base import ConfigError
from runner_compare.metrics import BY_ANSWERS
from runner_compare.statistics.votes import (
    estimate_majority_at_k,
    estimate_pass_at_k,
    estimate_pass_hat_k,
    reported_answer_counts,
)

NAME = re.compile(r"(pass@|maj@|pass\^)(\d+)")
PASS, VOTE, ALL = "pass@", "maj@", "pass^"


class AnswerVotes(NamedTuple):
    """Votes for a question's answers: how many for the correct answer, and how many for each wrong answer.

    Answers without an extracted text do not vote.
    """

    right: int
    wrong: tuple[int, ...]

    @classmethod
    def from_answers(cls, answers: Iterable[tuple[str | None, bool]]) -> AnswerVotes:
        """Count the votes of answers. An answer without text has no vote."""
        said = [(text.strip(), is_right) for text, is_right in answers if text is not None]
        wrong = Counter(text for text, is_right in said if not is_right)
        return cls(sum(is_right for _, is_right in said), tuple(sorted(wrong.values())))


@dataclass(frozen=True)
class RepeatedAnswerMetric:
    """Metric of k answers: `pass@k` (any correct), `maj@k` (majority correct) or `pass^k` (all
    correct).
    """

    kind: str
    k: int

    @classmethod
    def from_name(cls, name: str) -> RepeatedAnswerMetric | None:
        """Parse a metric name such as `maj@8`; None if the name has another form."""
        match = NAME.fullmatch(name)
        if match is None:
            return None
        if int(match[2]) < 1:
            raise ConfigError(
                f"the number after @ or ^ must be at least 1, e.g. {match[1]}4", key=name, code="bad_value"
            )
        return cls(match[1], int(match[2]))

    def estimate_metric_for_question(
        self, num_correct: int, num_answers: int, votes: AnswerVotes | None
    ) -> float | None:
        """Estimate the metric for one question.

        Returns None if there are fewer than k answers, or if votes are missing.
        """
        if num_answers < self.k:
            return None
        if self.kind == PASS:
            return estimate_pass_at_k(self.k, num_answers, num_correct)
        if self.kind == ALL:
            return estimate_pass_hat_k(self.k, num_answers, num_correct)
        return (
            None
            if votes is None
            else float(estimate_majority_at_k(self.k, num_answers, votes.right, votes.wrong))
        )


def compute_repeated_answer_metrics(
    questions: Sequence[tuple[tuple[int, int], AnswerVotes | None]],
) -> dict[str, float]:
    """Compute pass@k, maj@k and pass^k from several answers per question.

    Each question has its numbers of correct and of all answers, and its votes if known.
    Questions with different numbers of answers have a mean, but no such metrics.
    """
    counts = {right[1] or 1 for right, _ in questions}
    most = max(counts, default=1)
    if most == 1:
        return {}
    figures: dict[str, float] = {"answers_each": most}
    for k in reported_answer_counts(most) if len(counts) == 1 else []:
        for key, name in BY_ANSWERS.items():
            values = [
                RepeatedAnswerMetric(name.format(""), k).estimate_metric_for_question(*right, votes)
                for right, votes in questions
            ]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                figures[f"{key}/{k}"] = fmean(known)
    return figures
