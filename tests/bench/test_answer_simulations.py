"""Short runs of the simulations of answers: position bias, and what other tools' tests make of the
same pairs."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.thorough
def test_position_bias_is_rarely_found_without_one_and_the_first_order_alone_is_misled(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import position_null
    from simulation import Limits

    monkeypatch.setattr(position_null, "SETTINGS", [(60, 4, 2, 0.7, 0.5, True)])
    limits = Limits()
    (naive,) = position_null.simulate(generator, 60, limits)
    assert naive.times == 60, "the control"
    assert limits.conclude(0.0) == 0


def test_the_normal_test_of_few_contested_questions_is_wrong_and_the_exact_one_is_not(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests_of_others
    from simulation import Limits

    three_won = np.array([True] * 3 + [False] * 7)
    assert tests_of_others.contested_wald(three_won & False, three_won) == 0, "as olmo-eval says itself"
    monkeypatch.setattr(tests_of_others, "SETTINGS", [(50, 0.9, 0.9, 0.1)])
    monkeypatch.setattr(tests_of_others, "OF_CLUSTERS", [])
    limits = Limits()
    ((z, normal),) = tests_of_others.simulate(generator, 60, limits)
    assert normal.low > 0.1
    assert z.times == 0
    assert limits.conclude(0.0) == 0


@pytest.mark.thorough
def test_equal_sides_are_rarely_told_apart_by_pass_at_k_and_families_count_as_one(
    generator: np.random.Generator,
) -> None:
    import chances_null

    for name in ("pass@4", "maj@4"):
        false, _, found = chances_null.rates(generator, "alike", (100, 4), name, 40)
        assert false.low <= 0.05
        assert found.times > false.times, "the control: a side that is worse"
    false, alone, _ = chances_null.rates(generator, "families", (300, 8), "pass@1", 40)
    assert false.low <= 0.05
    assert alone.low > 0.05, "the control: questions of a family count by themselves"
