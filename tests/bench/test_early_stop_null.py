"""A short run of the simulation of jobs that stop by themselves: equal ones are rarely told apart, others soon."""

from __future__ import annotations

import statistics

import numpy as np


def test_equal_jobs_are_rarely_told_apart_and_others_soon() -> None:
    from early_stop_null import covered, simulate
    from simulation import Rate

    generator = np.random.default_rng(1)
    null, _, _ = simulate(generator, (0.5, 0.5), 0.8, 150)
    assert Rate(null.better + null.worse, 150).low <= 0.05
    apart, _, found = simulate(generator, (0.6, 0.4), 0.8, 30)
    assert (apart.better, found) == (30, 30)
    assert statistics.median(apart.asked) < 200
    assert all(rate.low <= 0.05 for rate in covered(generator, 10))
