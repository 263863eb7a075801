"""A short run of the simulation of numbers: equal runs are rarely called different, and intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["F1, 5 % differ", "F1, 40 % differ", "length, all differ"])
def test_numbers_of_equal_runs_rarely_differ_and_lost_ones_are_found(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fast_flips
    from numbers_null import KINDS, rates

    from runner.core import ratios

    monkeypatch.setattr(ratios, "sign_flip_p", fast_flips.sign_flip_p)
    (false, *missed), least, found = rates(np.random.default_rng(1), KINDS[kind], 50, 60)
    assert false.low <= 0.05
    assert all(rate.low <= 0.06 for rate in missed)
    assert least > 0
    assert all(rate.high >= 0.77 for rate in found)
    assert any(rate.times for rate in found)
