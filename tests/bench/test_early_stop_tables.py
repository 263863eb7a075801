"""A short run of the simulation of grids that stop early: tables repeat what jobs have said, and are rarely wrong."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_tables_keep_the_verdicts_of_their_jobs_and_did_not_before() -> None:
    from early_stop_tables import tables
    from simulation import Rate

    generator = np.random.default_rng(1)
    now, _ = tables(generator, 40, 2, (0.5, 0.5), 0.5)
    assert Rate(sum(now.wrong), 40).low <= 0.05
    now, before = tables(generator, 6, 2, (0.6, 0.4), 0.8)
    assert (now.kept, now.decided) == (12, 12)
    assert (before.kept, before.decided) == (0, 12)


def test_a_job_with_a_margin_is_called_as_good_if_it_is_and_seldom_at_the_margin() -> None:
    from early_stop_tables import about_margin

    generator = np.random.default_rng(1)
    at_the_margin, _, _, other_words = about_margin(generator, 20, 0.05, 500, (0.85, 0.9), 0.95)
    assert (at_the_margin.low <= 0.05, other_words) == (True, 0)
    equal, asked, _, other_words = about_margin(generator, 20, 0.05, 500, (0.9, 0.9), 0.95)
    assert (equal.times >= 16, other_words) == (True, 0)
    assert asked < 400
