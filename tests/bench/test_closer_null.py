"""A short run of the simulation of KLs in advice: equal files are seldom apart, and far ones are."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def test_intervals_of_equal_files_overlap() -> None:
    from closer_null import are_apart, intervals
    from files_null import Line

    generator = np.random.default_rng(1)
    equal = [intervals(generator, Line("", (0.001,) * 4, 60, "mixed")) for _ in range(30)]
    assert sum(any(are_apart(*pair) for pair in combinations(ends, 2)) for ends in equal) <= 3
    far = [intervals(generator, Line("", (0.001, 0.01), 60, "even")) for _ in range(5)]
    assert all(are_apart(*ends) for ends in far)
