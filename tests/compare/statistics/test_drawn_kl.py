"""How exact a KL from drawn tokens is: only enough tokens say so."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from runner_base.result import Likelihood
from runner_compare.statistics.likelihoods import (
    DRAWING_CAUTION,
    MIN_DRAWN_TOKENS,
    compute_likelihood_metrics,
)

ERROR, FEW = "kl_drawing_error_nats_per_token", "kl_drawn_tokens"


def of_texts(tokens: int, variance: float | None) -> dict[str, float]:
    half = tokens // 2
    parts = [
        Likelihood(unit, -1.0, size, size, size, 1, kl_nats=0.1, truncation_nats=0.0, top_1_agreed=1,
                   kl_variance=variance)
        for unit, size in enumerate((half, tokens - half))
    ]  # fmt: skip
    return compute_likelihood_metrics(parts)


def test_only_enough_tokens_show_how_exact_a_drawn_kl_is() -> None:
    few, enough = of_texts(MIN_DRAWN_TOKENS - 1, 0.02), of_texts(MIN_DRAWN_TOKENS, 0.02)
    assert (few.get(ERROR), few[FEW]) == (None, MIN_DRAWN_TOKENS - 1)
    assert FEW not in enough
    quantile = norm.ppf(1 - 0.025 / DRAWING_CAUTION)
    assert enough[ERROR] == pytest.approx(quantile * math.sqrt(0.04) / MIN_DRAWN_TOKENS)


def test_a_kl_of_whole_distributions_has_no_drawing_error() -> None:
    assert not {ERROR, FEW} & of_texts(10, None).keys()
