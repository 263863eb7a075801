"""What a comparison of means says that it could detect, it detects; and so many questions as it
says decide."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom

from runner_compare.statistics import MeanFlipTest, decide_comparisons_with_holm
from runner_compare.statistics.mean_plans import (
    compute_sign_flip_p_values,
    find_detectable_mean_loss,
    plan_questions_for_margin,
    simulate_mean_loss_power,
)
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.ratios import compute_sign_flip_p_value

DRAWS = 200
SLACK = 0.05  # by which a power may be off what is said


def noise(generator: np.random.Generator, families: int, size: int, differ: float) -> np.ndarray:
    """Draw the differences of two equal runs: a line for each family."""
    return generator.choice([-1.0, 0.0, 1.0], size=(families, size), p=[differ / 2, 1 - differ, differ / 2])


@pytest.mark.thorough
@pytest.mark.parametrize("families", [10, 25, 40, 59, 60, 100])
@pytest.mark.parametrize(("size", "samples"), [(10, 1), (1, 4)])
@pytest.mark.parametrize("is_whole", [False, True])
def test_what_is_said_to_be_detectable_is_found_in_four_of_five_pairs(
    families: int, size: int, samples: int, is_whole: bool
) -> None:
    """Before, 25 families of which none differed said 13.7 points, and found such a loss in 15
    %."""
    generator, found, each = np.random.default_rng(families), 0, size * samples
    it = MeanDifference.from_differences(
        [0.0] * families * size, [at // size for at in range(families * size)]
    )
    loss = find_detectable_mean_loss(it.sums, it.sizes, samples, is_whole, 0.05)
    if loss is None:
        assert families == 10, "more families find one that is lost as a whole"
        return
    for _ in range(DRAWS):
        lost = generator.random((families, 1 if is_whole else each)) < loss
        lost = np.broadcast_to(lost, (families, each)).reshape(families * size, samples)
        it = MeanDifference.from_differences(
            (-lost.mean(axis=1)).tolist(), [at // size for at in range(families * size)]
        )
        found += it.p < 0.05 and it.difference < 0
    least, most = (binom.ppf([0.001], DRAWS, 0.8 - SLACK)[0], binom.ppf([0.999], DRAWS, 0.8 + SLACK)[0])
    assert least <= found <= most


@pytest.mark.thorough
def test_a_loss_of_whole_families_is_harder_to_detect() -> None:
    differences = noise(np.random.default_rng(0), 30, 10, 0.2).ravel().tolist()
    families = MeanFlipTest(differences, [at // 10 for at in range(300)], "story")
    (it,) = decide_comparisons_with_holm([families])
    assert it.detectable is not None
    assert it.detectable_at_worst is not None
    assert it.detectable < 0.8 * it.detectable_at_worst
    strict, *_ = decide_comparisons_with_holm(
        [families, *(MeanFlipTest([0.0] * 20, samples=4) for _ in range(4))]
    )
    assert (strict.detectable or 0) > it.detectable, "five comparisons share the level"
    (few,) = decide_comparisons_with_holm([MeanFlipTest([0.0] * 60, [at // 10 for at in range(60)], "story")])
    assert few.detectable_at_worst is None or few.detectable_at_worst > 0.8


def test_the_power_is_that_of_the_test_that_decides() -> None:
    generator = np.random.default_rng(3)
    sums, sizes = tuple(noise(generator, 20, 10, 0.2).sum(axis=1).tolist()), (10.0,) * 20
    powers = [simulate_mean_loss_power(sums, sizes, 1, False, 0.05, loss) for loss in (0.01, 0.1, 0.2, 0.4)]
    assert powers == sorted(powers)
    assert powers[0] < 0.1
    assert powers[-1] > 0.99
    rows = generator.choice([-2.0, -1.0, 0.0, 0.0, 0.0, 1.0], size=(30, 14))
    assert compute_sign_flip_p_values(rows) == pytest.approx(
        [compute_sign_flip_p_value(row.tolist()) for row in rows]
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("families", "size", "differ"), [(100, 3, 0.2), (200, 1, 0.1)])
def test_so_many_questions_as_are_said_decide_about_a_margin(families: int, size: int, differ: float) -> None:
    generator, shown = np.random.default_rng(4), 0
    needed: int | None = None
    for _ in range(DRAWS // 2):
        first = MeanDifference.from_differences(
            noise(generator, families, size, differ).ravel().tolist(),
            [at // size for at in range(families * size)],
        )
        needed = plan_questions_for_margin(first.sums, first.sizes, 0.05, 0.05)
        assert needed is not None
        further = round(needed / size)
        drawn = noise(generator, further, size, differ).ravel().tolist()
        it = MeanDifference.from_differences(drawn, [at // size for at in range(len(drawn))])
        shown += it.compute_p_value_against(-0.05) < 0.05 and it.difference > -0.05
    least, most = binom.ppf([0.001, 0.999], DRAWS // 2, [0.75, 0.88])
    assert least <= shown <= most
    normal = NormalDist()
    about = (normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) ** 2 * differ / 0.05**2
    assert needed is not None
    assert needed == pytest.approx(about, rel=0.5)
    assert (plan_questions_for_margin(first.sums, first.sizes, 0.02, 0.05) or 0) > 4 * needed
    assert plan_questions_for_margin(first.sums, first.sizes, 1e-6, 0.05) is None
