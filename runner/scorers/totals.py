"""What the samples of a job add up to: verdicts, tokens, costs, and who gave the answers."""

from __future__ import annotations

from collections import Counter

from runner.core.result import FinishReason, Sample, Verdict
from runner.core.sides import sides
from runner.core.stats import wilson_interval


def score(samples: list[Sample]) -> dict[str, float]:
    """Add up verdicts and tokens; accuracy is correct ÷ n, with its 95 % Wilson interval, errors among the n."""
    counts, n = Counter(sample.verdict for sample in samples), len(samples)
    low, high = wilson_interval(counts[Verdict.correct], n)
    return {
        "accuracy": counts[Verdict.correct] / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "n": n,
        **{verdict.value: counts[verdict] for verdict in Verdict},
        "errors": sum(sample.failed for sample in samples),
        **token_counts(samples),
    }


def token_counts(samples: list[Sample]) -> dict[str, float]:
    """Add up the tokens."""
    return {
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "new_tokens": sum(said.tokens for sample in samples for said in sample.said),
    }


def who_did_what(samples: list[Sample]) -> dict[str, float]:
    """Add up cost, and answers, calls and tokens by who gave them, where there is anything of the kind to tell."""
    return cost(samples) | sides(samples)


def cost(samples: list[Sample]) -> dict[str, float]:
    """Add up what the answers have cost, where that is known."""
    costs = [sample.cost_usd for sample in samples if sample.cost_usd is not None and sample.reused_from is None]
    return {"cost_usd": sum(costs)} if costs else {}


def count_completions(samples: list[Sample]) -> dict[str, float]:
    """Count completions, tokens and how they ended; every branch is a completion."""
    said = [one for sample in samples for one in sample.said]
    ended = {reason: sum(one.finish_reason is reason for one in said) for reason in FinishReason}
    return {
        "n": len(said),
        **token_counts(samples),
        "stopped": ended[FinishReason.stop],
        "cut_off": ended[FinishReason.length],
        "errors": ended[FinishReason.error],
    }
