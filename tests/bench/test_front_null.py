"""A short run of the front's simulation: noise dominates nothing, a worse row hides no better one, a bad one is found."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_wrong_rows_are_rare_and_dominated_ones_are_found() -> None:
    from front_null import IN_FAMILIES, QUIET, Setting, fallen, table_of

    generator = np.random.default_rng(1)
    none, nf4 = Setting("none", 0.9), Setting("nf4", 0.9, memory=33.0)
    for noise, runs in ((0.08, 1), (0.06, 3), (0.03, 5)):
        tables = [table_of(generator, [none] * 5, 200, 0.95, noise, runs) for _ in range(20)]
        assert sum(any(row.dominated_by for row in rows) for rows in tables) <= 1
    tables = [table_of(generator, [Setting("same", 0.7)] * 3, 200, IN_FAMILIES, 0.08, 1) for _ in range(15)]
    assert sum(any(row.dominated_by for row in rows) for rows in tables) <= 2, "of the questions of families, 3 to 8"
    worse, slower = Setting("nf4", 0.87, memory=33.0), Setting("nf4", 0.9, memory=33.0, speed=40.0)
    assert fallen(generator, 40, ("", none, worse), 200, 0.05, 1).low <= 0.05
    assert fallen(generator, 40, ("", none, slower), 1319, 0.05, 3).low <= 0.05
    assert fallen(generator, 20, ("", none, nf4), 1319, QUIET, 1).high > 0.8
    assert fallen(generator, 20, ("", none, nf4), 1319, QUIET, 5).high > 0.8
