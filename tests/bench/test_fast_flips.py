"""The flips that the simulations use give the very p that the product gives."""

from __future__ import annotations

import numpy as np
import pytest

from runner.core.ratios import sign_flip_p


@pytest.mark.parametrize("n", [3, 14, 15, 50, 203])
def test_the_fast_flips_are_those_of_the_product(n: int) -> None:
    import fast_flips

    generator = np.random.default_rng(n)
    for shift in (0.0, 0.15, 0.3, 2.0):
        values = (generator.standard_normal(n) + shift).tolist()
        steps = generator.integers(-2, 3, n) + (generator.random(n) < shift / 4)  # many sums are equal
        for differences in (values, steps.astype(float).tolist()):
            assert fast_flips.sign_flip_p(differences) == sign_flip_p(differences)
