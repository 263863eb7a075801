"""A short run of the null simulation of families of questions."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_families_are_rarely_found_to_differ_and_questions_alone_often() -> None:
    from cluster_null import answers, verdict

    generator = np.random.default_rng(0)
    different = {"families": 0, "independent": 0}
    for _ in range(60):
        solved, family = answers(generator, 20, 10, True, [0.7, 0.7])
        for name, of in (("families", family), ("independent", None)):
            it = verdict(solved, of)
            assert it is not None
            different[name] += it.finding != "no difference shown"
    assert different["families"] <= 6
    assert different["independent"] >= 10
    solved, family = answers(generator, 5, 10, False, [0.7, 0.7])
    assert verdict(solved, family) is None


def test_few_families_with_all_the_losses_deceive_flips_alone_and_not_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cluster_null

    generator = np.random.default_rng(0)
    of_families = [cluster_null.wrong(*cluster_null.families_that_lose(generator, 10, True)) for _ in range(100)]
    of_answers = [cluster_null.wrong(cluster_null.questions_that_lose(generator, 20, 16), None, 16) for _ in range(100)]
    for found in (of_families, of_answers):
        different, missed, by_flips = (sum(which) for which in zip(*found, strict=True))
        assert max(different, missed) <= 5 < by_flips
    monkeypatch.setattr(cluster_null, "SKEWED", (10,))
    monkeypatch.setattr(cluster_null, "ANSWERED", ((20, 4),))
    monkeypatch.setattr(cluster_null, "RARE_AMONG", (20,))
    assert [rate.of for rate in cluster_null.skewed(generator, 20)] == [20] * 6, "rare families are not counted"


def test_a_plan_decides_and_too_few_families_have_none() -> None:
    from cluster_null import planned

    generator = np.random.default_rng(0)
    plan = planned(generator, 100, 3, False, 0.9, 0.1)
    assert plan is not None
    assert plan[1]
    assert planned(generator, 20, 10, True, 0.9, 0.1) is None
