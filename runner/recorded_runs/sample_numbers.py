"""Reads metrics of samples: tokens, cost, and the probability of a right majority vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from runner.config.extractors import Extractor
from runner.records.jobs import read_samples
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_base.degeneration import measure_degeneration
from runner_base.scored_choices import compute_gold_probability
from runner_base.thought_tokens import compute_mean_tokens, count_answer_tokens, count_thinking_tokens
from runner_compare import (
    Answers,
    AnswerVotes,
    BetterDirection,
    Question,
    QuestionOutcome,
    RepeatedAnswerMetric,
    question_identity,
)

OF_SAMPLES: dict[str, Callable[[Sample], float | None]] = {  # of several answers to a question: the mean
    "new_tokens": lambda sample: sum(answer.num_tokens for answer in sample.answers) / len(sample.answers),
    "characters": lambda sample: sum(len(answer.text) for answer in sample.answers) / len(sample.answers),
    "thinking_tokens": lambda sample: compute_mean_tokens(count_thinking_tokens, sample.answers),
    "answer_tokens": lambda sample: compute_mean_tokens(count_answer_tokens, sample.answers),
    "cost_usd": lambda sample: sample.cost_usd,
    "gold_probability": lambda sample: (
        None if sample.choice_likelihoods is None else compute_gold_probability(sample.choice_likelihoods)
    ),
    "degenerate": lambda sample: _compute_mean_of_answers(
        sample, lambda text: measure_degeneration(text).is_degenerate
    ),
    "repeated_ngram_share": lambda sample: _compute_mean_of_answers(
        sample, lambda text: measure_degeneration(text).repeated_ngram_share
    ),
}
LOWER_IS_BETTER = {"cost_usd", "degenerate", "repeated_ngram_share"}
# of tokens and characters, neither more nor fewer is better
NUMBERS = {
    **{
        name: BetterDirection.lower if name in LOWER_IS_BETTER else BetterDirection.neither
        for name in OF_SAMPLES
    },
    "gold_probability": BetterDirection.higher,
}


def _compute_mean_of_answers(sample: Sample, measure: Callable[[str], float]) -> float:
    return sum(measure(answer.text) for answer in sample.answers) / len(sample.answers)


def read_sample_metric(samples_path: Path, metric_name: str, extractor_names: Sequence[str] = ()) -> Answers:
    """Return a metric of each answered question. Raises RunRecordError for a modified sample.

    `extractor_names` are the extractors or scorers that judged a run; of these, the first one
    that a sample has counts.
    """
    chance = RepeatedAnswerMetric.from_name(metric_name)
    number_of = (
        OF_SAMPLES[metric_name]
        if chance is None
        else partial(estimate_right_answer_probability, chance, extractor_names)
    )
    return {
        _get_sample_question_key(sample): QuestionOutcome.from_metric(sample, number_of(sample))
        for sample in read_samples(samples_path).values()
        if sample.likelihood is None
        and (sample.answer.verdict is not None or chance is None)
        and not sample.failed
        and not (chance and sample.left_out)
    }


def _get_sample_question_key(sample: Sample) -> Question:
    """Return the key of a sample's question. A prompt of task=generate is identified by its hash."""
    if sample.question is None:
        return sample.index, sample.prompt_sha256 or "", ""
    return question_identity(sample)


def estimate_right_answer_probability(
    repeated_answer_metric: RepeatedAnswerMetric, verdict_sources: Sequence[str], sample: Sample
) -> float | None:
    right, answers = sample.count_correct_answers
    if not answers:
        right, answers = int(sample.solved), 1
    said = [
        _get_vote_and_correctness(choice, verdict_sources) for choice in sample.choices or [sample.answer]
    ]
    return repeated_answer_metric.estimate_metric_for_question(right, answers, AnswerVotes.from_answers(said))


def _get_vote_and_correctness(answer: Answer, extractor_names: Sequence[str]) -> tuple[str | None, bool]:
    """Return the extracted answer for the majority vote, and whether the answer is right. Truncated
    answers do not vote.
    """
    found = answer.extracted or {}
    said = next((found[way] for way in extractor_names if way in found), next(iter(found.values()), None))
    is_cut_off = answer.finish_reason is not FinishReason.stop and found.get(Extractor.strict, said) is None
    has_vote = answer.verdict in (Verdict.correct, Verdict.wrong) and not is_cut_off
    return said if has_vote else None, answer.verdict is Verdict.correct
