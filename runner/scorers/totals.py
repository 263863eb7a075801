"""Totals over a job's samples: verdicts, tokens, costs, and the models that gave the answers."""

from __future__ import annotations

from collections import Counter

from runner.core.sides import sides
from runner_base import FinishReason, Sample, Verdict
from runner_compare import ENDS
from runner_compare.statistics import accuracy_figures, bounds_of_accuracy


def score(samples: list[Sample]) -> dict[str, float]:
    """Return verdicts and tokens; accuracy is correct ÷ n with its 95 % interval, and n includes
    errors.

    Of several answers to each question the accuracy is the mean over all of them; the verdicts are
    those of the votes.
    """
    counts = Counter(sample.answer.verdict for sample in samples)
    families = [sample.cluster for sample in samples]
    answers = [sample.right_answers[1] or 1 for sample in samples]
    at_worst, at_best = ([sample.right_share(is_right) for sample in samples] for is_right in (False, True))
    return {
        **accuracy_figures(at_worst, families, answers),
        **bounds_of_accuracy(at_worst, at_best, families, answers),
        **{verdict.value: counts[verdict] for verdict in Verdict},
        "errors": sum(sample.failed for sample in samples),
        **token_counts(samples),
    }


def score_without_left_out(samples: list[Sample]) -> dict[str, float]:
    """Return the score of the samples that count; if some are left out, also that of all, named
    `…_all`."""
    counted = [sample for sample in samples if not sample.left_out]
    every = score(samples)
    if len(counted) == len(samples):
        return every
    ends_of_all = {f"accuracy_all{end}": every[f"accuracy{end}"] for end in ENDS}
    of_all = {"errors": every["errors"], "correct_all": every["correct"], "n_all": every["n"], **ends_of_all}
    return score(counted) | token_counts(samples) | of_all


def token_counts(samples: list[Sample]) -> dict[str, float]:
    """Return the numbers of prompt tokens and new tokens."""
    return {
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "new_tokens": sum(branch.tokens for sample in samples for branch in sample.answers),
    }


def cost_and_sides(samples: list[Sample]) -> dict[str, float]:
    """Return the cost, and answers, calls and tokens of each side of a hybrid, as far as they are
    known."""
    return cost(samples) | sides(samples)


def cost(samples: list[Sample]) -> dict[str, float]:
    """Return the total cost of the answers, if it is known."""
    costs = [
        sample.cost_usd for sample in samples if sample.cost_usd is not None and sample.reused_from is None
    ]
    return {"cost_usd": sum(costs)} if costs else {}


def count_completions(samples: list[Sample]) -> dict[str, float]:
    """Count completions, tokens and finish reasons; every branch is a completion."""
    completions = [answer for sample in samples for answer in sample.answers]
    ended = {
        reason: sum(completion.finish_reason is reason for completion in completions)
        for reason in FinishReason
    }
    return {
        "n": len(completions),
        **token_counts(samples),
        "stopped": ended[FinishReason.stop],
        "cut_off": ended[FinishReason.length] + ended[FinishReason.context],
        "errors": ended[FinishReason.error],
    }
