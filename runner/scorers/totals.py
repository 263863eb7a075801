"""Sums over a job's samples: correct answers, tokens and costs."""

from __future__ import annotations

from collections import Counter

from runner.core.answer_sources import count_answers_by_model
from runner_base import FinishReason, Sample, Verdict
from runner_compare import ENDS
from runner_compare.statistics import compute_accuracy_bound_metrics, compute_accuracy_metrics


def score_samples(samples: list[Sample]) -> dict[str, float]:
    """Return accuracy with its 95 % interval, verdict counts and token counts.

    With several answers per question, the accuracy is the mean over all of them; the verdicts are
    those of the votes. n includes errors.
    """
    counts = Counter(sample.answer.verdict for sample in samples)
    families = [sample.cluster for sample in samples]
    answers = [sample.count_correct_answers[1] or 1 for sample in samples]
    at_worst, at_best = ([sample.accuracy(is_right) for sample in samples] for is_right in (False, True))
    return {
        **compute_accuracy_metrics(at_worst, families, answers),
        **compute_accuracy_bound_metrics(at_worst, at_best, families, answers),
        **{verdict.value: counts[verdict] for verdict in Verdict},
        "errors": sum(sample.failed for sample in samples),
        **total_token_counts(samples),
    }


def score_included_samples(samples: list[Sample]) -> dict[str, float]:
    """Return the score without excluded samples. Metrics whose names contain `_all` include the
    excluded samples.
    """
    counted = [sample for sample in samples if not sample.left_out]
    every = score_samples(samples)
    if len(counted) == len(samples):
        return every
    ends_of_all = {f"accuracy_all{end}": every[f"accuracy{end}"] for end in ENDS}
    of_all = {"errors": every["errors"], "correct_all": every["correct"], "n_all": every["n"], **ends_of_all}
    return score_samples(counted) | total_token_counts(samples) | of_all


def total_token_counts(samples: list[Sample]) -> dict[str, float]:
    return {
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "new_tokens": sum(branch.num_tokens for sample in samples for branch in sample.answers),
    }


def cost_and_model_metrics(samples: list[Sample]) -> dict[str, float]:
    """Return the total cost and, for model=hybrid, the answers, calls and tokens of each model."""
    return sum_cost_usd(samples) | count_answers_by_model(samples)


def sum_cost_usd(samples: list[Sample]) -> dict[str, float]:
    costs = [
        sample.cost_usd for sample in samples if sample.cost_usd is not None and sample.reused_from is None
    ]
    return {"cost_usd": sum(costs)} if costs else {}


def count_completions_by_outcome(samples: list[Sample]) -> dict[str, float]:
    completions = [answer for sample in samples for answer in sample.answers]
    ended = {
        reason: sum(completion.finish_reason is reason for completion in completions)
        for reason in FinishReason
    }
    return {
        "n": len(completions),
        **total_token_counts(samples),
        "stopped": ended[FinishReason.stop],
        "cut_off": ended[FinishReason.length] + ended[FinishReason.context],
        "errors": ended[FinishReason.error],
    }
