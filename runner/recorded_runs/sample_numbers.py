"""Reads metrics per sample other than the verdict: tokens, cost, probability of a right majority
vote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from runner.config.extractors import Extractor
from runner.records.jobs import read_samples
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_base.thought_tokens import count_answer_tokens, count_thinking_tokens, mean_tokens
from runner_compare import (
    Answers,
    AnswerVotes,
    BetterDirection,
    QuestionOutcome,
    RepeatedAnswerMetric,
    question_identity,
)

OF_SAMPLES: dict[str, Callable[[Sample], float | None]] = {  # of several answers to a question: the mean
    "new_tokens": lambda sample: sum(answer.num_tokens for answer in sample.answers) / len(sample.answers),
    "characters": lambda sample: sum(len(answer.text) for answer in sample.answers) / len(sample.answers),
    "thinking_tokens": lambda sample: mean_tokens(count_thinking_tokens, sample.answers),
    "answer_tokens": lambda sample: mean_tokens(count_answer_tokens, sample.answers),
    "cost_usd": lambda sample: sample.cost_usd,
}
# of tokens and characters, neither more nor fewer is better
NUMBERS = {
    name: BetterDirection.lower if name == "cost_usd" else BetterDirection.neither for name in OF_SAMPLES
}


def read_sample_metric(samples_path: Path, metric_name: str, verdict_sources: Sequence[str] = ()) -> Answers:
    """Return a metric of each answered question. Raises EvidenceError if a sample was modified.

    `verdict_sources` are the extractors or scorers that judged a run; of these, the first one that
    a sample has counts.
    """
    chance = RepeatedAnswerMetric.from_name(metric_name)
    number_of = (
        OF_SAMPLES[metric_name]
        if chance is None
        else partial(chance_of_right_answer, chance, verdict_sources)
    )
    return {
        question_identity(sample): QuestionOutcome.from_metric(sample, number_of(sample))
        for sample in read_samples(samples_path).values()
        if sample.answer.verdict is not None and not sample.failed and not (chance and sample.left_out)
    }


def chance_of_right_answer(
    repeated_answer_metric: RepeatedAnswerMetric, verdict_sources: Sequence[str], sample: Sample
) -> float | None:
    """Return the probability that k answers to a question include a right one, or elect a right one."""
    right, answers = sample.count_correct_answers
    if not answers:
        right, answers = int(sample.solved), 1
    said = [_find_vote(choice, verdict_sources) for choice in sample.choices or [sample.answer]]
    return repeated_answer_metric.estimate(right, answers, AnswerVotes.from_answers(said))


def _find_vote(answer: Answer, verdict_sources: Sequence[str]) -> tuple[str | None, bool]:
    """Return an answer's vote, and whether the vote is right. A truncated answer has no vote."""
    found = answer.extracted or {}
    said = next((found[way] for way in verdict_sources if way in found), next(iter(found.values()), None))
    is_cut_off = answer.finish_reason is not FinishReason.stop and found.get(Extractor.strict, said) is None
    has_vote = answer.verdict in (Verdict.correct, Verdict.wrong) and not is_cut_off
    return said if has_vote else None, answer.verdict is Verdict.correct
