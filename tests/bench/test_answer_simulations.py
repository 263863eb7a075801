"""Short runs of the simulations of answers: position bias, and what other tools' tests make of the
same pairs."""

from __future__ import annotations

import numpy as np
import pytest


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
    assert tests_of_others.contested_wald(three_won & False, three_won) == 0, (
        "as olmo-eval says itself"
    )
    monkeypatch.setattr(tests_of_others, "SETTINGS", [(50, 0.9, 0.9, 0.1)])
    monkeypatch.setattr(tests_of_others, "OF_CLUSTERS", [])
    limits = Limits()
    ((z, normal),) = tests_of_others.simulate(generator, 60, limits)
    assert normal.low > 0.1
    assert z.times == 0
    assert limits.conclude(0.0) == 0
