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


def test_intervals_of_pass_at_k_and_of_instructions_hold_and_the_controls_do_not(
    generator: np.random.Generator,
) -> None:
    import code_instructions_null

    missed, alone = code_instructions_null.miss_pass_at_k(generator, "known or not", 100, 10, 8, 60)
    assert missed.low <= 0.06
    assert alone.low > 0.2, "the control: answers as independent problems"
    missed, alone = code_instructions_null.miss_instruction_accuracy(generator, 100, 0.5, 60)
    assert missed.low <= 0.06
    assert alone.times > missed.times, "the control: independent instructions"


def test_equal_settings_rarely_degenerate_more_and_a_worse_one_is_found(
    generator: np.random.Generator,
) -> None:
    import code_instructions_null

    said, alone = code_instructions_null.find_differences(generator, 0.3, 1.0, 20, by_length=True)
    assert said.low <= 0.05
    assert alone.times > said.times, "the control: no correction"
    found, _ = code_instructions_null.find_differences(generator, 0.3, 3.0, 5, by_length=True)
    assert found.times == 5
