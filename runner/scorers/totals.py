"""What the samples of a job add up to: verdicts, tokens, costs, and who gave the answers."""

from __future__ import annotations

from collections import Counter

from runner.core.result import FinishReason, Sample, Verdict
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
    costs = [sample.cost_usd for sample in samples if sample.cost_usd is not None and sample.taken_from is None]
    counts: Counter[str] = Counter()
    for sample in samples:
        for call in sample.calls or []:
            counts.setdefault(f"{call.who}_answers", 0)
            counts[f"{call.who}_calls"] += 1
            counts[f"{call.who}_prompt_tokens"] += call.prompt_tokens
            counts[f"{call.who}_new_tokens"] += call.tokens
        if sample.calls and not sample.failed:
            counts[f"{sample.by}_answers"] += 1
    return ({"cost_usd": sum(costs)} if costs else {}) | counts


def answered_by(samples: list[Sample]) -> str:
    """Say who gave how many of the answers; empty where it can be one only."""
    given = Counter(sample.by for sample in samples if sample.by is not None and not sample.failed)
    return ", ".join(f"{who} {number}" for who, number in given.most_common())


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
