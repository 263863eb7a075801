"""A short run of the simulation of runs: over them equal jobs are rarely told apart, by repeats of one process often."""

from __future__ import annotations

import numpy as np

from runner.core.number_effects import Measured


def test_runs_hold_the_level_and_repeats_of_one_process_do_not() -> None:
    from runs_null import covered, jobs, named

    generator = np.random.default_rng(1)
    for shape in ("normal", "two modes", "unequal"):
        sides = jobs(generator, shape, 5, 300), jobs(generator, shape, 3, 300, side=1)
        assert named(*sides).low <= 0.05
        assert covered(*sides).high >= 0.95
        as_runs = [[Measured(it.repeats, it.repeats) for it in side] for side in sides]
        assert named(*as_runs).low > 0.3, "the control: a repeat counts as a run"
        assert covered(*as_runs).high < 0.7
