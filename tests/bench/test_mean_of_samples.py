"""A short run of the simulation of several answers to each question: the mean finds more than the vote."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_the_mean_finds_more_than_the_vote_and_little_among_equals() -> None:
    from mean_of_samples import drawn, rates

    generator = np.random.default_rng(0)
    null = rates(generator, 40, lambda n: drawn(generator, n, 0.5, 0.0), 100, 0.0)
    assert null["mean"][0].low <= 0.05
    apart = rates(generator, 40, lambda n: drawn(generator, n, 0.5, 0.1), 100, 0.09)
    assert apart["mean"][0].times > apart["vote"][0].times > 0
