"""A short run of the null simulation of families of questions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


def test_families_are_rarely_found_to_differ_and_questions_alone_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "bench"), *sys.path])
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


def test_a_plan_decides_and_too_few_families_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "bench"), *sys.path])
    from cluster_null import planned

    generator = np.random.default_rng(0)
    plan = planned(generator, 100, 3, False, 0.9, 0.1)
    assert plan is not None
    assert plan[1]
    assert planned(generator, 20, 10, True, 0.9, 0.1) is None
