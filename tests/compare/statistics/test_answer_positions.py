"""Growth of the divergence by generated position, of answers whose divergence is planted."""

from __future__ import annotations

import numpy as np
import pytest

from runner_base import Likelihood
from runner_base.generated_positions import split_by_generated_position
from runner_compare.statistics import Finding, decide_comparisons_with_holm
from runner_compare.statistics.answer_positions import (
    compute_metrics_by_generated_position,
    create_kl_growth_tests,
    find_kl_growth_start,
)


def draw_answers(lengths: list[int], kl_by_bin: dict[int, float], seed: int = 0) -> list[Likelihood]:
    """Return answers with this mean KL per token in each bin, times a level of each answer."""
    random = np.random.default_rng(seed)
    answers = []
    for unit, length in enumerate(lengths):
        level = float(np.exp(random.normal(0, 0.3)))
        sums = [
            [
                first,
                end - first,
                -2.0 * (end - first),
                kl_by_bin[first] * level * (end - first),
                0.9 * (end - first),
            ]
            for first, end in split_by_generated_position(length)
        ]
        answers.append(Likelihood(unit, -2.0 * length, length, 1, 1, 0, by_answer_position=sums))
    return answers


def find_start(answers: list[Likelihood], clusters: dict[int, str | None] | None = None) -> int | None:
    tests = create_kl_growth_tests(answers, clusters or {})
    return find_kl_growth_start(dict(zip(tests, decide_comparisons_with_holm(tests.values()), strict=True)))


FLAT = dict.fromkeys((0, 16, 64, 256, 1024, 4096), 0.1)


@pytest.mark.parametrize(
    ("raised", "start"),
    [({}, None), ({256: 0.3, 1024: 0.3}, 256), ({1024: 0.3}, 1024), ({256: 0.3}, None), ({64: 0.01}, None)],
)
def test_the_growth_starts_where_it_was_planted(raised: dict[int, float], start: int | None) -> None:
    """Where only a middle bin is higher, the divergence is not larger from there on."""
    assert find_start(draw_answers([2000] * 80, FLAT | raised)) == start


def test_the_effect_is_that_of_the_same_answers() -> None:
    """Only long answers have a high level: a comparison of all answers would find growth."""
    short, long = draw_answers([100] * 60, FLAT), draw_answers([2000] * 60, dict.fromkeys(FLAT, 0.5))
    answers = [Likelihood(**vars(one) | {"unit": unit}) for unit, one in enumerate([*short, *long])]
    metrics = compute_metrics_by_generated_position(answers, {})
    rates = [metrics[f"kl_nats_per_token/generated_{first}"] for first in (0, 16, 1024)]
    assert rates[2] > 1.5 * rates[0]
    tests = create_kl_growth_tests(answers, {})
    assert [*tests] == [64, 256, 1024]
    assert [abs(test.effect.value) < 1e-12 for test in tests.values()] == [True] * 3
    assert [test.effect.n for test in tests.values()] == [120, 60, 60]


def test_bins_that_fewer_than_fifty_samples_reach_are_not_tested() -> None:
    answers = draw_answers([2000] * 49 + [900] * 51, FLAT | {1024: 9.0})
    assert [*create_kl_growth_tests(answers, {})] == [64, 256]
    in_pairs: dict[int, str | None] = {unit: f"prompt {unit // 2}" for unit in range(100)}
    assert [*create_kl_growth_tests(answers, in_pairs)] == [64, 256]
    in_fours: dict[int, str | None] = {unit: f"prompt {unit // 4}" for unit in range(100)}
    assert create_kl_growth_tests(answers, in_fours) == {}


def test_clusters_are_the_samples() -> None:
    """Twenty answers each to three prompts are three samples, not sixty."""
    answers = draw_answers([2000] * 60, FLAT)
    metrics = compute_metrics_by_generated_position(answers, {unit: str(unit % 3) for unit in range(60)})
    assert metrics["n/generated_256"] == 3
    assert "kl_nats_per_token_low/generated_256" not in metrics
    alone = compute_metrics_by_generated_position(answers, {})
    assert alone["n/generated_256"] == 60
    assert alone["kl_nats_per_token_low/generated_256"] < metrics["kl_nats_per_token/generated_256"]
    assert alone["top_1_agreement/generated_256"] == pytest.approx(0.9)
    assert alone["loss_nats_per_token/generated_256"] == pytest.approx(2.0)


def test_answers_without_a_reference_have_a_loss_and_no_test() -> None:
    answers = [
        Likelihood(
            unit, -9.0, 90, 1, 1, 0, by_answer_position=[[0, 16, -4.0], [16, 48, -2.0], [64, 26, -3.0]]
        )
        for unit in range(60)
    ]
    assert create_kl_growth_tests(answers, {}) == {}
    metrics = compute_metrics_by_generated_position(answers, {})
    assert metrics["loss_nats_per_token/generated_0"] == 0.25
    assert not any(key.startswith(("kl_", "top_1")) for key in metrics)


def test_the_correction_covers_all_bins_and_candidates() -> None:
    """The same answers among many candidates of constant divergence have a wider interval."""
    answers = draw_answers([2000] * 60, FLAT | {256: 0.13, 1024: 0.13})
    (alone,) = decide_comparisons_with_holm([create_kl_growth_tests(answers, {})[256]])
    others = [
        test
        for seed in range(1, 6)
        for test in create_kl_growth_tests(draw_answers([2000] * 60, FLAT, seed), {}).values()
    ]
    among = decide_comparisons_with_holm([create_kl_growth_tests(answers, {})[256], *others])[0]
    assert (alone.finding, alone.comparisons, among.comparisons) == (Finding.worse, 1, 16)
    assert among.simultaneous_low < alone.simultaneous_low
    assert among.p_holm > alone.p_holm
