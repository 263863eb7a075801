"""Computes a job's likelihood metrics, with confidence intervals over documents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from statistics import NormalDist
from typing import Any

from runner_base import Likelihood
from runner_base.scored_choices import NORMS, select_choice
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.statistics.accuracy_intervals import (
    accuracy_interval,
    compute_clustered_proportion_interval,
)
from runner_compare.statistics.ratios import MIN_TEXTS, compute_ratio_interval, ratio_of_sums
from runner_compare.statistics.stats import ALPHA

WINDOWS = "windows of one text"  # the fact `samples` of a job with a single text
NOT_SUMMED = ("unit", "is_other", "context", "by_position", "by_answer_position")
# Tokens of which the reference has drawn others: the draws of fewer show too little of a heavy tail,
# and those of more understate it (bench/compare/drawn_null.py).
MIN_DRAWN_TOKENS = 2_000
DRAWING_CAUTION = 2.0
DRAWING_QUANTILE = NormalDist().inv_cdf(1 - ALPHA / 2 / DRAWING_CAUTION)
SUMS = [field.name for field in fields(Likelihood) if field.name not in NOT_SUMMED]


def sum_likelihoods_by_document(likelihoods: Sequence[Likelihood]) -> list[Likelihood]:
    """Sum the log-likelihoods of each document over its windows.

    A question counts with its right choice, a document with its longest context.
    """
    sum_by_unit: dict[int, Likelihood] = {}
    longest = longest_context(likelihoods)
    for part in likelihoods:
        if part.is_other or part.context != longest:
            continue
        earlier = sum_by_unit.get(part.unit)
        sums: dict[str, Any] = {}
        for name in SUMS if earlier is not None else ():
            values = getattr(earlier, name), getattr(part, name)
            sums[name] = None if None in values else sum(values)
        sum_by_unit[part.unit] = replace(part, **sums)
    return [sum_by_unit[unit] for unit in sorted(sum_by_unit)]


def longest_context(likelihoods: Iterable[Likelihood]) -> int | None:
    return max((part.context for part in likelihoods if part.context is not None), default=None)


def sum_likelihoods_by_cluster(
    likelihoods: Sequence[Likelihood], clusters: Sequence[str | None]
) -> list[Likelihood]:
    """Sum the log-likelihoods of the documents in each cluster. Each cluster is one sample of a test.

    If a cluster is unknown, the documents are returned unchanged.
    """
    if None in clusters:
        return list(likelihoods)
    numbers = {family: number for number, family in enumerate(dict.fromkeys(clusters))}
    return sum_likelihoods_by_document(
        [replace(text, unit=numbers[family]) for text, family in zip(likelihoods, clusters, strict=True)]
    )


def compute_likelihood_metrics(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None] | None = None
) -> dict[str, float]:
    """Compute a job's likelihood metrics, with intervals over documents or clusters.

    Each metric is a ratio of sums. `cluster_by_unit` names the cluster of each document or
    question.
    """
    of_texts = sum_likelihoods_by_document(likelihoods)
    families = [(cluster_by_unit or {}).get(text.unit) for text in of_texts]
    texts = sum_likelihoods_by_cluster(of_texts, families)
    tokens = [float(text.tokens) for text in texts]
    bytes_of_texts = [float(text.bytes) for text in texts]
    nats = [text.nats for text in texts]
    bits = [-text.nats / math.log(2) for text in texts]
    by_token = _create_ratio_metric(LOG_LIKELIHOOD, nats, tokens, upper=0)
    job_figures = {
        "n": float(len(of_texts)),
        "scored_tokens": sum(tokens),
        "scored_bytes": sum(bytes_of_texts),
    } | by_token
    job_figures |= _create_ratio_metric("log_likelihood_nats_per_byte", nats, bytes_of_texts, upper=0)
    job_figures |= _create_ratio_metric("bits_per_token", bits, tokens, lower=0) | _create_ratio_metric(
        "bits_per_byte", bits, bytes_of_texts, lower=0
    )
    # perplexity is lower if the likelihood is higher
    flipped_end = {"": "", "_low": "_high", "_high": "_low"}
    job_figures |= {
        f"perplexity{flipped_end[key.removeprefix(LOG_LIKELIHOOD)]}": _safe_exp(-value)
        for key, value in by_token.items()
    }
    job_figures |= _create_token_fraction_metric(
        "rank_1_share", [float(text.rank_1) for text in texts], tokens
    )
    if None not in families:
        job_figures["families"] = float(len(texts))
    return (
        job_figures
        | _compute_divergence_metrics(texts)
        | _compute_multiple_choice_accuracies(likelihoods, families)
    )


def _compute_divergence_metrics(texts: Sequence[Likelihood]) -> dict[str, float]:
    compared = [text for text in texts if text.kl_nats is not None]
    if not compared:
        return {}
    tokens = [float(text.tokens) for text in compared]
    kl, truncation, agreed = ([float(getattr(text, name)) for text in compared] for name in
                              ("kl_nats", "truncation_nats", "top_1_agreed"))  # fmt: skip
    divergence_figures = _create_ratio_metric("kl_nats_per_token", kl, tokens, lower=0.0)
    divergence_figures |= _create_token_fraction_metric("top_1_agreement", agreed, tokens)
    variances = [text.kl_variance for text in compared if text.kl_variance is not None]
    if len(variances) == len(compared):
        if sum(tokens) < MIN_DRAWN_TOKENS and any(variances):  # none: nothing was drawn
            divergence_figures["kl_drawn_tokens"] = sum(tokens)
        else:
            error_nats = DRAWING_QUANTILE * math.sqrt(sum(variances))
            divergence_figures["kl_drawing_error_nats_per_token"] = error_nats / sum(tokens)
    return divergence_figures | {"kl_truncation_nats_per_token": ratio_of_sums(truncation, tokens)}


def _compute_multiple_choice_accuracies(
    likelihoods: Sequence[Likelihood], clusters: Sequence[str | None]
) -> dict[str, float]:
    if not any(part.is_other for part in likelihoods):
        return {}
    questions: dict[int, list[Likelihood]] = {}
    for part in likelihoods:
        questions.setdefault(part.unit, []).append(part)
    accuracies: dict[str, float] = {}
    for name in NORMS:
        solved = [
            not choices[select_choice(choices, name)].is_other for _, choices in sorted(questions.items())
        ]
        low, high = accuracy_interval(solved, clusters)
        accuracies |= {name: sum(solved) / len(solved), f"{name}_low": low, f"{name}_high": high}
    return accuracies


def _create_ratio_metric(
    name: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    lower: float = -math.inf,
    upper: float = math.inf,
) -> dict[str, float]:
    return _with_interval(
        name,
        ratio_of_sums(numerators, denominators),
        compute_ratio_interval(numerators, denominators, lower, upper),
    )


def _create_token_fraction_metric(
    name: str, numerators: Sequence[float], denominators: Sequence[float]
) -> dict[str, float]:
    """Return a fraction of tokens as a metric, with its interval.

    The interval is not Student's, which covers too little where nearly all tokens count.
    """
    ends = (
        compute_clustered_proportion_interval(numerators, denominators)
        if len(numerators) >= MIN_TEXTS
        else None
    )
    return _with_interval(name, ratio_of_sums(numerators, denominators), ends)


def _with_interval(name: str, value: float, interval: tuple[float, float] | None) -> dict[str, float]:
    return {name: value} | (
        {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    )


def _safe_exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # above it, a float overflows
