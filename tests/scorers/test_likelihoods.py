"""A job's figures from single likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from runner_base.result import Likelihood
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.statistics import MIN_TEXTS
from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.likelihoods import compute_likelihood_metrics, sum_likelihoods_by_document
from runner_compare.statistics.ratios import compute_ratio_interval
from runner_compare.statistics.stats import compute_wilson_interval


def test_windows_of_a_text_make_one_sample_and_other_choices_none() -> None:
    parts = [
        Likelihood(0, -1.0, 2, 6, 5, 1, kl_nats=0.1, truncation_nats=0.01, top_1_agreed=2),
        Likelihood(0, -3.0, 4, 10, 9, 2, kl_nats=0.2, truncation_nats=0.02, top_1_agreed=3),
        Likelihood(1, -9.0, 3, 9, 9, 0, is_other=True),
        Likelihood(1, -2.0, 4, 8, 8, 4, kl_nats=0.3, truncation_nats=0.03, top_1_agreed=4),
    ]
    nats: Any = pytest.approx(0.3)
    whole = Likelihood(0, -4.0, 6, 16, 14, 3, kl_nats=nats, truncation_nats=0.03, top_1_agreed=5)
    assert sum_likelihoods_by_document(parts) == [whole, parts[3]]
    job_figures = compute_likelihood_metrics(parts)
    assert (job_figures["n"], job_figures["scored_tokens"], job_figures["scored_bytes"]) == (2, 10, 24)
    assert job_figures[LOG_LIKELIHOOD] == -0.6
    assert job_figures["bits_per_byte"] == pytest.approx(6 / 24 / math.log(2))
    assert job_figures["perplexity"] == pytest.approx(math.exp(0.6))
    assert job_figures["rank_1_share"] == 0.7
    assert job_figures["kl_nats_per_token"] == pytest.approx(0.06)
    assert job_figures["kl_truncation_nats_per_token"] == pytest.approx(0.006)
    assert job_figures["top_1_agreement"] == 0.9
    ends = {name for name in job_figures if name.endswith(("_low", "_high"))}
    assert all(name.startswith("acc") for name in ends), "of questions; of two texts there are none"


def test_a_job_without_reference_and_choices_has_no_such_figures() -> None:
    job_figures = compute_likelihood_metrics([Likelihood(0, -1.0, 2, 6, 5, 1)])
    assert not {"acc", "kl_nats_per_token"} & job_figures.keys()


def test_intervals_of_a_job_need_as_many_texts_as_a_test() -> None:
    texts = [
        Likelihood(unit, -0.1 * (1 + unit % 7), 4, 12, 12, 3 + unit % 2, kl_nats=0.1 + unit % 3,
                   truncation_nats=0.0, top_1_agreed=4 - unit % 2)
        for unit in range(MIN_TEXTS)
    ]  # fmt: skip
    fewer, enough = compute_likelihood_metrics(texts[:-1]), compute_likelihood_metrics(texts)
    assert not [name for name in fewer if name.endswith(("_low", "_high"))]
    for name in (
        LOG_LIKELIHOOD, "log_likelihood_nats_per_byte", "bits_per_token", "bits_per_byte", "perplexity",
        "rank_1_share", "kl_nats_per_token", "top_1_agreement",
    ):  # fmt: skip
        assert enough[f"{name}_low"] < enough[name] < enough[f"{name}_high"], name


def test_a_share_that_all_texts_have_does_not_look_certain() -> None:
    """Student's interval has no width where all first choices are right."""
    texts = [Likelihood(unit, -0.1, 4, 12, 12, 4) for unit in range(MIN_TEXTS)]
    job_figures = compute_likelihood_metrics(texts)
    assert 0.9 < job_figures["rank_1_share_low"] < 0.999
    assert job_figures["rank_1_share_high"] == 1


def test_an_interval_stays_in_the_possible_range() -> None:
    unlikely, likely = Likelihood(0, -900.0, 10, 30, 30, 1), Likelihood(0, -0.1, 10, 30, 30, 10)
    texts = [replace(likely if unit else unlikely, unit=unit) for unit in range(MIN_TEXTS)]
    job_figures = compute_likelihood_metrics(texts)
    assert job_figures[f"{LOG_LIKELIHOOD}_high"] == job_figures["bits_per_byte_low"] == 0
    assert job_figures["perplexity_low"] == 1
    assert job_figures["rank_1_share_high"] <= 1
    assert job_figures[f"{LOG_LIKELIHOOD}_low"] < -1


def test_choices_are_normalized_by_length_as_in_lm_eval() -> None:
    """By sum, per character, per byte and per token another choice wins each time."""
    choices = [
        Likelihood(0, -4.0, 4, 4, 4, 0),  # 1 per character, byte and token
        Likelihood(0, -3.0, 1, 2, 2, 0, is_other=True),  # the largest sum
        Likelihood(0, -6.0, 5, 8, 8, 0, is_other=True),  # the most per character
    ]
    right = [Likelihood(1, -1.0, 1, 1, 1, 1), Likelihood(1, -9.0, 1, 1, 1, 0, is_other=True)]
    job_figures = compute_likelihood_metrics([*choices, *right])
    assert (
        job_figures["acc"],
        job_figures["acc_norm"],
        job_figures["acc_bytes"],
        job_figures["acc_tokens"],
    ) == (0.5, 0.5, 0.5, 1.0)
    assert job_figures["acc_low"] < 0.5 < job_figures["acc_high"]


def test_texts_and_questions_in_families_count_by_families() -> None:
    """Half of the families are easy: their questions are right, and their texts likely."""
    parts = []
    for unit in range(300):
        is_easy = unit // 5 % 2 == 0
        right, other = (-1.0, -2.0) if is_easy else (-3.0, -2.0)
        parts += [Likelihood(unit, right, 2, 6, 5, 1), Likelihood(unit, other, 2, 6, 5, 1, is_other=True)]
    families = {unit: f"story {unit // 5}" for unit in range(300)}
    alone, in_families = compute_likelihood_metrics(parts), compute_likelihood_metrics(parts, families)
    assert "families" not in alone
    assert (in_families["n"], in_families["families"]) == (300, 60)
    solved = [unit // 5 % 2 == 0 for unit in range(300)]
    assert (in_families["acc_low"], in_families["acc_high"]) == accuracy_interval(
        solved, [*families.values()]
    )
    assert (alone["acc_low"], alone["acc_high"]) == compute_wilson_interval(150, 300)
    for name in (LOG_LIKELIHOOD, "bits_per_byte", "perplexity"):
        assert in_families[name] == pytest.approx(alone[name])
        widths = [it[f"{name}_high"] - it[f"{name}_low"] for it in (in_families, alone)]
        assert widths[0] > 2 * widths[1], "sixty families of alike texts are worth about sixty texts"


def of_divergences(kl: Sequence[float]) -> list[Likelihood]:
    return [Likelihood(unit, -2.0, 4, 8, 8, 4, kl_nats=4 * one, truncation_nats=0.0, top_1_agreed=4)
            for unit, one in enumerate(kl)]  # fmt: skip


def test_the_interval_of_a_divergence_needs_as_many_texts_as_a_test() -> None:
    kl = [0.001 * (1 + unit % 7) for unit in range(MIN_TEXTS)]
    fewer, enough = (
        compute_likelihood_metrics(of_divergences(kl[:-1])),
        compute_likelihood_metrics(of_divergences(kl)),
    )
    assert "kl_nats_per_token" in fewer
    assert not {"kl_nats_per_token_low", "kl_nats_per_token_high"} & fewer.keys()
    ends = enough["kl_nats_per_token_low"], enough["kl_nats_per_token_high"]
    assert ends == pytest.approx(compute_ratio_interval([4 * it for it in kl], [4.0] * MIN_TEXTS))


@pytest.mark.thorough
@pytest.mark.parametrize("spread", [1.0, 1.5])
@pytest.mark.parametrize("texts", [50, 100])
def test_the_interval_of_a_divergence_holds_also_where_few_texts_have_most_of_it(
    spread: float, texts: int
) -> None:
    generator, truth, draws, missed = np.random.default_rng(1), math.exp(spread**2 / 2), 400, 0
    for _ in range(draws):
        it = compute_likelihood_metrics(of_divergences(generator.lognormal(0, spread, texts).tolist()))
        missed += not it["kl_nats_per_token_low"] <= truth <= it["kl_nats_per_token_high"]
    assert missed <= binom.ppf(0.999, draws, 0.06)
