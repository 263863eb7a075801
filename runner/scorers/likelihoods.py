"""From the likelihoods of single texts to the numbers of a job, each with its interval over samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from runner.core.metrics import LOG_LIKELIHOOD
from runner.core.ratios import ratio, ratio_interval
from runner.core.result import Likelihood
from runner.core.stats import wilson_interval

SUMS = [it.name for it in fields(Likelihood) if it.name not in ("unit", "is_other")]
# by what a choice's log-likelihood is divided before the largest wins; characters are what lm-evaluation-harness counts
NORMS: dict[str, Callable[[Likelihood], float]] = {
    "acc": lambda _: 1.0,
    "acc_norm": lambda it: float(it.characters),
    "acc_bytes": lambda it: float(it.bytes),
    "acc_tokens": lambda it: float(it.tokens),
}


def units(parts: Sequence[Likelihood]) -> list[Likelihood]:
    """Put the windows of one text together; of a question with choices, the right one stands for it."""
    found: dict[int, Likelihood] = {}
    for it in parts:
        if it.is_other:
            continue
        earlier = found.get(it.unit)
        sums: dict[str, Any] = {}
        for name in SUMS if earlier is not None else ():
            values = getattr(earlier, name), getattr(it, name)
            sums[name] = None if None in values else sum(values)
        found[it.unit] = replace(it, **sums)
    return [found[unit] for unit in sorted(found)]


def figures(parts: Sequence[Likelihood]) -> dict[str, float]:
    """Return what the texts of a job come to: sums over sums, with intervals over samples where there are several."""
    of = units(parts)
    tokens = [float(it.tokens) for it in of]
    size = [float(it.bytes) for it in of]
    nats = [it.nats for it in of]
    bits = [-it.nats / math.log(2) for it in of]
    by_token = _ratio(LOG_LIKELIHOOD, nats, tokens, most=0)
    found = {"n": float(len(of)), "scored_tokens": sum(tokens), "scored_bytes": sum(size)} | by_token
    found |= _ratio("log_likelihood_nats_per_byte", nats, size, most=0)
    found |= _ratio("bits_per_token", bits, tokens, least=0) | _ratio("bits_per_byte", bits, size, least=0)
    turned = {"": "", "_low": "_high", "_high": "_low"}  # a text is less perplexing where it is more likely
    found |= {f"perplexity{turned[key.removeprefix(LOG_LIKELIHOOD)]}": _exp(-value) for key, value in by_token.items()}
    found |= _share("rank_1_share", [float(it.rank_1) for it in of], tokens)
    return found | _of_reference(of) | _of_choices(parts)


def _of_reference(of: Sequence[Likelihood]) -> dict[str, float]:
    """Return how far the model is from its reference, where it has one."""
    compared = [it for it in of if it.kl_nats is not None]
    if not compared:
        return {}
    tokens = [float(it.tokens) for it in compared]
    kl, truncation, agreed = ([float(getattr(it, name)) for it in compared] for name in
                              ("kl_nats", "truncation_nats", "top_1_agreed"))  # fmt: skip
    found = _ratio("kl_nats_per_token", kl, tokens, least=0) | _share("top_1_agreement", agreed, tokens)
    return found | {"kl_truncation_nats_per_token": ratio(truncation, tokens)}


def _of_choices(parts: Sequence[Likelihood]) -> dict[str, float]:
    """Return how often the right choice is the likeliest, by four ways to allow for its length."""
    if not any(it.is_other for it in parts):
        return {}
    questions: dict[int, list[Likelihood]] = {}
    for it in parts:
        questions.setdefault(it.unit, []).append(it)
    found: dict[str, float] = {}
    for name, length in NORMS.items():
        right = sum(not max(it, key=lambda one: one.nats / length(one)).is_other for it in questions.values())
        low, high = wilson_interval(right, len(questions))
        found |= {name: right / len(questions), f"{name}_low": low, f"{name}_high": high}
    return found


def _ratio(
    name: str, tops: Sequence[float], bottoms: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> dict[str, float]:
    """Return a ratio, and its interval where there is one, within what it can be."""
    found = {name: ratio(tops, bottoms)}
    if len(tops) > 1:
        low, high = ratio_interval(tops, bottoms)
        found |= {f"{name}_low": max(low, least), f"{name}_high": min(high, most)}
    return found


def _share(name: str, tops: Sequence[float], bottoms: Sequence[float]) -> dict[str, float]:
    return _ratio(name, tops, bottoms, least=0, most=1)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # beyond it, a float ends
