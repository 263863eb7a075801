"""Computes a job's figures from the likelihoods of single texts, each with its interval over
samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from statistics import NormalDist
from typing import Any

from runner_base import Likelihood
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.statistics.clustered_share import interval_of_sums, share_interval
from runner_compare.statistics.ratios import MIN_TEXTS, ratio, ratio_interval
from runner_compare.statistics.stats import ALPHA

WINDOWS = "windows of one text"  # the fact `samples` of a job with a single text
NOT_SUMMED = ("unit", "is_other", "context", "by_position")
# Tokens of which the reference has drawn others: the draws of fewer show too little of a heavy tail,
# and those of more understate it (bench/compare/drawn_null.py).
MIN_DRAWN_TOKENS = 2_000
DRAWING_CAUTION = 2.0
DRAWING_QUANTILE = NormalDist().inv_cdf(1 - ALPHA / 2 / DRAWING_CAUTION)
SUMS = [field.name for field in fields(Likelihood) if field.name not in NOT_SUMMED]
# the divisor of a choice's log-likelihood before the largest wins; lm-evaluation-harness counts
# characters
NORMS: dict[str, Callable[[Likelihood], float]] = {
    "acc": lambda _: 1.0,
    "acc_norm": lambda text: float(text.characters),
    "acc_bytes": lambda text: float(text.bytes),
    "acc_tokens": lambda text: float(text.tokens),
}


def units(parts: Sequence[Likelihood]) -> list[Likelihood]:
    """Add up the windows of each text; a question counts with its right choice, a text with its
    longest context."""
    sum_by_unit: dict[int, Likelihood] = {}
    longest = longest_context(parts)
    for part in parts:
        if part.is_other or part.context != longest:
            continue
        earlier = sum_by_unit.get(part.unit)
        sums: dict[str, Any] = {}
        for name in SUMS if earlier is not None else ():
            values = getattr(earlier, name), getattr(part, name)
            sums[name] = None if None in values else sum(values)
        sum_by_unit[part.unit] = replace(part, **sums)
    return [sum_by_unit[unit] for unit in sorted(sum_by_unit)]


def longest_context(parts: Iterable[Likelihood]) -> int | None:
    """Return the context that the figures of a job are about; None where texts are scored once."""
    return max((part.context for part in parts if part.context is not None), default=None)


def by_family(texts: Sequence[Likelihood], families: Sequence[str | None]) -> list[Likelihood]:
    """Add up the texts of each family, which are one sample of the statistics; the texts if a
    family is unknown."""
    if None in families:
        return list(texts)
    numbers = {family: number for number, family in enumerate(dict.fromkeys(families))}
    return units([replace(text, unit=numbers[family]) for text, family in zip(texts, families, strict=True)])


def figures(
    parts: Sequence[Likelihood], family_by_unit: Mapping[int, str | None] | None = None
) -> dict[str, float]:
    """Return the figures of a job's texts: ratios of sums, with intervals over texts or families if
    there are several.

    `family_by_unit` names the family that each text or question belongs to.
    """
    of_texts = units(parts)
    families = [(family_by_unit or {}).get(text.unit) for text in of_texts]
    texts = by_family(of_texts, families)
    tokens = [float(text.tokens) for text in texts]
    bytes_of_texts = [float(text.bytes) for text in texts]
    nats = [text.nats for text in texts]
    bits = [-text.nats / math.log(2) for text in texts]
    by_token = _ratio(LOG_LIKELIHOOD, nats, tokens, most=0)
    job_figures = {
        "n": float(len(of_texts)),
        "scored_tokens": sum(tokens),
        "scored_bytes": sum(bytes_of_texts),
    } | by_token
    job_figures |= _ratio("log_likelihood_nats_per_byte", nats, bytes_of_texts, most=0)
    job_figures |= _ratio("bits_per_token", bits, tokens, least=0) | _ratio(
        "bits_per_byte", bits, bytes_of_texts, least=0
    )
    # perplexity is lower if the likelihood is higher
    flipped_end = {"": "", "_low": "_high", "_high": "_low"}
    job_figures |= {
        f"perplexity{flipped_end[key.removeprefix(LOG_LIKELIHOOD)]}": _exp(-value)
        for key, value in by_token.items()
    }
    job_figures |= _share("rank_1_share", [float(text.rank_1) for text in texts], tokens)
    if None not in families:
        job_figures["families"] = float(len(texts))
    return job_figures | _of_reference(texts) | _of_choices(parts, families)


def _of_reference(texts: Sequence[Likelihood]) -> dict[str, float]:
    """Return the model's divergence from its reference, if it has one."""
    compared = [text for text in texts if text.kl_nats is not None]
    if not compared:
        return {}
    tokens = [float(text.tokens) for text in compared]
    kl, truncation, agreed = ([float(getattr(text, name)) for text in compared] for name in
                              ("kl_nats", "truncation_nats", "top_1_agreed"))  # fmt: skip
    divergence_figures = _ratio("kl_nats_per_token", kl, tokens, least=0.0)
    divergence_figures |= _share("top_1_agreement", agreed, tokens)
    variances = [text.kl_variance for text in compared if text.kl_variance is not None]
    if len(variances) == len(compared):
        if sum(tokens) < MIN_DRAWN_TOKENS and any(variances):  # none: nothing was drawn
            divergence_figures["kl_drawn_tokens"] = sum(tokens)
        else:
            error_nats = DRAWING_QUANTILE * math.sqrt(sum(variances))
            divergence_figures["kl_drawing_error_nats_per_token"] = error_nats / sum(tokens)
    return divergence_figures | {"kl_truncation_nats_per_token": ratio(truncation, tokens)}


def _of_choices(parts: Sequence[Likelihood], families: Sequence[str | None]) -> dict[str, float]:
    """Return how often the right choice is the likeliest, with four normalizations by length."""
    if not any(part.is_other for part in parts):
        return {}
    questions: dict[int, list[Likelihood]] = {}
    for part in parts:
        questions.setdefault(part.unit, []).append(part)
    accuracies: dict[str, float] = {}
    for name, length in NORMS.items():
        solved = [
            not max(questions[unit], key=lambda ending: ending.nats / length(ending)).is_other
            for unit in sorted(questions)
        ]
        low, high = share_interval(solved, families)
        accuracies |= {name: sum(solved) / len(solved), f"{name}_low": low, f"{name}_high": high}
    return accuracies


def _ratio(
    name: str,
    tops: Sequence[float],
    bottoms: Sequence[float],
    least: float = -math.inf,
    most: float = math.inf,
) -> dict[str, float]:
    """Return a ratio, with its interval if there are enough texts."""
    return _with_ends(name, ratio(tops, bottoms), ratio_interval(tops, bottoms, least, most))


def _share(name: str, tops: Sequence[float], bottoms: Sequence[float]) -> dict[str, float]:
    """Return a share of tokens; its interval is not Student's, which misses where nearly all
    count."""
    ends = interval_of_sums(tops, bottoms) if len(tops) >= MIN_TEXTS else None
    return _with_ends(name, ratio(tops, bottoms), ends)


def _with_ends(name: str, value: float, ends: tuple[float, float] | None) -> dict[str, float]:
    return {name: value} | ({} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]})


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # above it, a float overflows
