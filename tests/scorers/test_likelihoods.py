"""From single likelihoods to a job's numbers."""

from __future__ import annotations

import math

import pytest

from runner.core.metrics import LOG_LIKELIHOOD
from runner.core.result import Likelihood
from runner.scorers.likelihoods import figures, units


def test_windows_of_a_text_make_one_sample_and_other_choices_none() -> None:
    parts = [
        Likelihood(0, -1.0, 2, 6, 5, 1, kl_nats=0.1, truncation_nats=0.01, top_1_agreed=2),
        Likelihood(0, -3.0, 4, 10, 9, 2, kl_nats=0.2, truncation_nats=0.02, top_1_agreed=3),
        Likelihood(1, -9.0, 3, 9, 9, 0, is_other=True),
        Likelihood(1, -2.0, 4, 8, 8, 4, kl_nats=0.3, truncation_nats=0.03, top_1_agreed=4),
    ]
    whole = Likelihood(0, -4.0, 6, 16, 14, 3, kl_nats=pytest.approx(0.3), truncation_nats=0.03, top_1_agreed=5)  # type: ignore[arg-type]
    assert units(parts) == [whole, parts[3]]
    found = figures(parts)
    assert (found["n"], found["scored_tokens"], found["scored_bytes"]) == (2, 10, 24)
    assert found[LOG_LIKELIHOOD] == -0.6
    assert found["bits_per_byte"] == pytest.approx(6 / 24 / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(0.6))
    assert found["rank_1_share"] == 0.7
    assert found["kl_nats_per_token"] == pytest.approx(0.06)
    assert found["kl_truncation_nats_per_token"] == pytest.approx(0.006)
    assert found["top_1_agreement"] == 0.9
    assert found["perplexity_low"] < found["perplexity"] < found["perplexity_high"]


def test_a_single_sample_has_no_interval() -> None:
    found = figures([Likelihood(0, -1.0, 2, 6, 5, 1)])
    assert not [name for name in found if name.endswith(("_low", "_high"))]
    assert not {"acc", "kl_nats_per_token"} & found.keys()


def test_an_interval_ends_where_the_number_does() -> None:
    found = figures([Likelihood(0, -9.0, 10, 30, 30, 1), Likelihood(1, -0.1, 10, 30, 30, 10)])
    assert found[f"{LOG_LIKELIHOOD}_high"] == found["bits_per_byte_low"] == found["rank_1_share_low"] == 0
    assert (found["perplexity_low"], found["rank_1_share_high"]) == (1, 1)
    assert found[f"{LOG_LIKELIHOOD}_low"] < -1


def test_choices_by_length_are_lm_evals() -> None:
    """By sum, per character, per byte and per token another choice wins each time."""
    choices = [
        Likelihood(0, -4.0, 4, 4, 4, 0),  # 1 a character, a byte, a token
        Likelihood(0, -3.0, 1, 2, 2, 0, is_other=True),  # the largest sum
        Likelihood(0, -6.0, 5, 8, 8, 0, is_other=True),  # the most for a character
    ]
    right = [Likelihood(1, -1.0, 1, 1, 1, 1), Likelihood(1, -9.0, 1, 1, 1, 0, is_other=True)]
    found = figures([*choices, *right])
    assert (found["acc"], found["acc_norm"], found["acc_bytes"], found["acc_tokens"]) == (0.5, 0.5, 0.5, 1.0)
    assert found["acc_low"] < 0.5 < found["acc_high"]
