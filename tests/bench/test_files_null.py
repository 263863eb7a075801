"""A short run of the simulation of ranks: equal files are seldom ranked, different ones are, and no sentence contradicts."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_ranks_and_sentences_are_true() -> None:
    from files_null import Line, rates, steps

    generator = np.random.default_rng(1)
    equal, _, width = rates(generator, Line("equal", (0.001,) * 4, 60, "mixed"), 20)
    assert equal["rank"].times <= 2
    assert equal["front"].times <= 2
    assert equal["control"].times == 20, "an order of equal files is wrong"
    assert width > 3.8
    near, told_apart, _ = rates(generator, Line("near", steps(5, 1.2), 100, "even"), 10)
    assert near["sentence"].times == 0, "ranges overlap, and a sentence may only name files that no test tells apart"
    assert 0.1 < told_apart < 0.95
    far, told_apart, width = rates(generator, Line("far", steps(4, 2), 100, "even"), 10)
    assert far["rank"].times == 0
    assert told_apart > 0.95
    assert width < 1.2
