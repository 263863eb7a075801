"""Up to how much context helps, and the loss by position: levels and intervals by simulation, each
with a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from runner_base import Likelihood
from runner_compare.features.contexts.render import (
    build_text_likelihood_records,
    format_longer_context_gain_sentence,
)
from runner_compare.features.positions.render import format_bin_range
from runner_compare.metrics.likelihoods import HELPS_UP_TO, LOSS
from runner_compare.statistics import ALPHA, Finding, RunComparison, decide_comparisons_with_holm
from runner_compare.statistics.context_gains import (
    ContextStep,
    compute_loss_metrics_by_context_length,
    create_log_likelihood_difference_test,
    select_helpful_context_steps,
)
from runner_compare.statistics.likelihoods import sum_likelihoods_by_document
from runner_compare.statistics.position_loss import compute_loss_metrics_by_position
from runner_compare.statistics.stats import student_p_value

TEXTS, TOKENS = 60, 64
LENGTHS = (256, 1024, 4096, 16384)
Numbers = np.ndarray


def scored(generator: np.random.Generator, gains: Sequence[float], spread: float = 0.1) -> list[Likelihood]:
    """Draw the same tokens after several contexts: each text has a loss, and gains of its own, of
    its own."""
    parts: list[Likelihood] = []
    of_text = generator.normal(3, 0.8, TEXTS)
    for length, gain in zip(LENGTHS, np.cumsum([0, *gains]), strict=False):
        # skewed, as a context that helps few texts much
        own = gain + generator.exponential(spread, TEXTS) - spread
        nats = -(of_text - own) * TOKENS
        parts += [
            Likelihood(text, float(nats[text]), TOKENS, 3 * TOKENS, 3 * TOKENS, 0, context=length)
            for text in range(TEXTS)
        ]
    return parts


@pytest.mark.thorough
@pytest.mark.parametrize("gains", [(0, 0, 0), (0.3, 0, 0), (0.3, 0.3, 0)])
def test_at_most_one_sentence_in_twenty_claims_too_much(gains: Sequence[float]) -> None:
    generator, count = np.random.default_rng(1), 200
    true = LENGTHS[sum(gain > 0 for gain in gains)]
    found = [
        compute_loss_metrics_by_context_length(scored(generator, gains), {})[HELPS_UP_TO]
        for _ in range(count)
    ]
    assert sum(length > true for length in found) <= 0.05 * count
    assert sum(length == true for length in found) >= 0.9 * count


def test_the_sequence_is_needed() -> None:
    """The control: the longest context with any gain at 5 %, by Student's test and without an
    order, claims too much."""
    generator, count, wrong = np.random.default_rng(2), 300, 0
    for _ in range(count):
        parts = scored(generator, (0, 0, 0))
        nats = np.array([[part.nats for part in parts if part.context == length] for length in LENGTHS])
        wrong += any(
            stats.ttest_rel(nats[longer], nats[shorter], alternative="greater").pvalue < ALPHA
            for longer in range(1, 4)
            for shorter in range(longer)
        )
    assert wrong > 0.08 * count


@pytest.mark.thorough
def test_ten_equal_settings_are_different_in_at_most_one_table_of_twenty() -> None:
    generator, count, wrong = np.random.default_rng(3), 60, 0
    for _ in range(count):
        base = scored(generator, (0.3, 0.2, 0.1))
        longest = sum_likelihoods_by_document(base)
        compared = []
        for _ in range(10):
            noise = generator.normal(0, 0.02 * TOKENS, TEXTS)
            other = [replace(part, nats=part.nats + noise[part.unit]) for part in longest]
            compared.append(RunComparison(create_log_likelihood_difference_test(other, longest)))
        wrong += any(it.finding is not Finding.open for it in decide_comparisons_with_holm(compared))
    assert wrong <= 0.05 * count


def test_the_chief_figures_are_those_of_the_longest_context() -> None:
    parts = scored(np.random.default_rng(4), (0.3, 0.3, 0.3))
    found = build_text_likelihood_records(parts, {})
    of_longest = [part for part in parts if part.context == LENGTHS[-1]]
    assert found.metrics["log_likelihood_nats_per_token"] == pytest.approx(
        sum(part.nats for part in of_longest) / (TEXTS * TOKENS)
    )
    assert found.metrics["scored_tokens"] == TEXTS * TOKENS
    assert [length for length, _ in found.series["loss_by_context"]] == [*LENGTHS]
    assert found.facts["context"].startswith(
        "more context helps up to 16,384 tokens (from 4,096 to 16,384: gain +0."
    )
    assert found.facts["context"].endswith("over 60 texts), the longest that was tried")


def too_few(documents: int) -> str:
    return f"{documents} documents are too few to test whether more context helps; 50 are needed"


def test_words() -> None:
    none = compute_loss_metrics_by_context_length(scored(np.random.default_rng(5), (0, 0, 0)), {})
    assert format_longer_context_gain_sentence(none).startswith(
        "more context shows no significant gain (from 256 to 1,024: gain "
    )
    less = compute_loss_metrics_by_context_length(scored(np.random.default_rng(6), (0.3, -0.3, 0.3)), {})
    assert "helps up to 1,024 tokens" in format_longer_context_gain_sentence(less)
    assert "; more hurts (from 1,024 to 4,096: gain −0." in format_longer_context_gain_sentence(less)
    few = compute_loss_metrics_by_context_length(
        [part for part in scored(np.random.default_rng(7), (0.3,)) if part.unit < 49], {}
    )
    assert format_longer_context_gain_sentence(few) == too_few(49)
    assert format_longer_context_gain_sentence({}) == ""
    families = {unit: f"family {unit // 2}" for unit in range(TEXTS)}
    of_families = compute_loss_metrics_by_context_length(scored(np.random.default_rng(8), (0.3,)), families)
    assert format_longer_context_gain_sentence(of_families) == too_few(30)


def test_the_first_step_without_a_gain_ends_the_sequence() -> None:
    gain, none, loss = (
        ContextStep(1, 2, value, 0, 0, p) for value, p in ((0.2, 0.001), (0.2, 0.2), (-0.2, 0.001))
    )
    assert select_helpful_context_steps([gain, none, gain]) == [gain]
    assert select_helpful_context_steps([none, gain]) == select_helpful_context_steps([loss, gain]) == []
    assert select_helpful_context_steps([gain, gain]) == [gain, gain]


# -------------------------------------------------------------------------------------- by position


def in_windows(generator: np.random.Generator, are_samples: bool = False) -> list[Likelihood]:
    """Draw texts in 12 windows with the tokens 512 to 1,023; what a text is about moves all of its
    windows."""
    parts: list[Likelihood] = []
    for text in range(TEXTS):
        of_text = generator.normal(2, 0.5)
        for _ in range(12):
            loss = of_text + generator.normal(0, 0.3)
            unit = len(parts) if are_samples else text
            parts.append(Likelihood(unit, -loss * 512, 512, 1, 1, 0, by_position=[[9, 512, -loss * 512]]))
    return parts


@pytest.mark.thorough
@pytest.mark.parametrize(("are_samples", "least", "most"), [(False, 0.93, 1.0), (True, 0.0, 0.8)])
def test_the_interval_of_a_bin_counts_texts_and_not_windows(
    are_samples: bool, least: float, most: float
) -> None:
    """The control counts windows as samples: their interval misses the truth far too often."""
    generator, count, held = np.random.default_rng(9), 400, 0
    for _ in range(count):
        found = compute_loss_metrics_by_position(in_windows(generator, are_samples), {})
        held += found[f"{LOSS}_low/position_512"] <= 2 <= found[f"{LOSS}_high/position_512"]
    assert least <= held / count <= most


def test_bins_are_summed_by_text_and_family() -> None:
    parts = [
        Likelihood(0, -5, 3, 1, 1, 0, by_position=[[0, 1, -3.0, 0.1], [1, 2, -2.0, 0.3]]),
        Likelihood(0, -2, 2, 1, 1, 0, by_position=[[1, 2, -2.0, 0.1]]),
        Likelihood(1, -1, 1, 1, 1, 0, by_position=[[1, 1, -1.0, 0.0]]),
    ]
    found = compute_loss_metrics_by_position(parts, {})
    assert found[f"{LOSS}/position_1"] == 3
    assert f"{LOSS}_low/position_1" not in found  # of a single text
    assert found[f"{LOSS}/position_2"] == 1
    assert (found["n/position_2"], found["scored_tokens/position_2"]) == (2, 5)
    assert found["kl_nats_per_token/position_2"] == pytest.approx(0.4 / 5)
    assert compute_loss_metrics_by_position(parts, {0: "a", 1: "a"})["n/position_2"] == 1
    # of an earlier version
    assert compute_loss_metrics_by_position([*parts, Likelihood(2, -1, 1, 1, 1, 0)], {}) == {}
    assert [format_bin_range(first) for first in (1, 2, 512)] == ["1", "2–3", "512–1,023"]


def test_the_p_of_a_step_is_no_smaller_than_students() -> None:
    parts = scored(np.random.default_rng(10), (0.02,))
    sides = [[part for part in parts if part.context == length] for length in LENGTHS[:2]]
    test = create_log_likelihood_difference_test(sides[1], sides[0])
    effect = test.effect
    assert effect.p >= student_p_value(effect.value / test.standard_error, TEXTS - 1)
