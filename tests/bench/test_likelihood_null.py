"""A short run of the null simulation of compared likelihoods: few equal pairs are called different, and true ones are."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["normal", "skewed", "lopsided", "heavy", "longer"])
def test_equal_runs_are_rarely_found_to_differ_and_moved_ones_often(kind: str) -> None:
    from likelihood_null import rates

    null, least, power = rates(np.random.default_rng(1), 50, kind, 100, 1)
    assert null.low <= 0.05, null
    assert power.times >= 60, power
    assert 0 < least < 0.01


@pytest.mark.thorough
def test_too_few_texts_have_no_verdict_and_enough_rarely_a_false_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import likelihood_null

    monkeypatch.setattr(likelihood_null, "FEW", (20, 50))
    monkeypatch.setattr(likelihood_null, "real_texts", dict)  # the real texts take a model
    nulls, missed = likelihood_null.few_and_skewed(np.random.default_rng(1), 100)
    assert [rate.times for rate in nulls[:4] + missed[:4]] == [0] * 8
    assert all(rate.low <= 0.05 for rate in nulls + missed)
    assert any(rate.times for rate in nulls)


@pytest.mark.thorough
def test_intervals_of_kl_hold_where_students_does_not_and_lognormal_differences_seldom_deceive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import likelihood_null

    monkeypatch.setattr(likelihood_null, "TAILS", (50, 60, 100))
    generator = np.random.default_rng(1)
    few, many = generator.lognormal(0, 1, 200), np.ones(200)
    missed = likelihood_null.kl_intervals(generator, 100, {"drawn": (few, many)})
    assert len(missed) == 9
    assert all(rate.low <= 0.06 for rate in missed)
    by_student = [likelihood_null.kl_misses(generator.lognormal(0, 1.5, 50), np.ones(50), np.exp(1.5**2 / 2))[1]
                  for _ in range(100)]  # fmt: skip
    assert sum(by_student) > 6, "the control can fail"
    assert all(rate.low <= 0.05 for rate in likelihood_null.lognormal_differences(generator, 200))
