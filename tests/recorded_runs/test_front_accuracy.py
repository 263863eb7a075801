"""The front compares accuracies as the table does: in families, by means over samples, by the bets
of an early stop."""

from __future__ import annotations

from typing import Any

import pytest
from question_families import in_families, with_samples
from stores import NF4, NONE, Store, marks

from runner_compare.statistics.empirical_likelihood import compute_empirical_likelihood_p_value

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


@pytest.mark.thorough
def test_a_row_is_not_dominated_by_the_questions_of_a_few_families(store: Store, rows: Any) -> None:
    # four families of ten are lost as a whole: p 0.125
    lost = [index // 10 >= 4 for index in range(200)]
    in_families(store, "front of families", "none", NONE, [True] * 200, 10)
    in_families(store, "front of families", "nf4", NF4, lost, 10)
    assert rows("front of families")["nf4"]["dominated_by"] is None
    many = [index // 10 >= 12 for index in range(200)]
    in_families(store, "front of lost families", "none", NONE, [True] * 200, 10)
    in_families(store, "front of lost families", "nf4", NF4, many, 10)
    assert rows("front of lost families")["nf4"]["dominated_by"] == "none"


@pytest.mark.thorough
def test_a_row_is_as_accurate_by_ten_families_but_for_rare_kinds(store: Store, rows: Any) -> None:
    """One lost answer of 1,000 in ten families excludes a loss of 2 points. A kind of family that is
    rarer than four in n is beyond the test; the test that counts it as lost excludes nothing."""
    for name, config, size in (("none", NONE, 100.0), ("nf4", NF4, 36.0)):
        solved = [index > 0 or name == "none" for index in range(1000)]
        in_families(store, "close families", name, config, solved, 100, metrics={"model_mib": size})
    assert rows("close families")["none"]["dominated_by"] == "nf4"
    lost = [-1.0, *[0.0] * 9]
    assert compute_empirical_likelihood_p_value(lost, [100.0] * 10, -0.02) > 0.05


@pytest.mark.thorough
def test_means_over_samples_decide_and_not_their_votes(store: Store, rows: Any, show: Any) -> None:
    with_samples(store, "front of samples", "none", NONE, [8] * 60)
    with_samples(store, "front of samples", "nf4", NF4, [6] * 60)  # each vote is right
    assert rows("front of samples")["nf4"]["dominated_by"] == "none"
    assert "nf4 by none (accuracy +25.0 points, speed" in show("front of samples")[1]


@pytest.mark.thorough
def test_the_bets_of_a_run_decide_at_its_own_share(store: Store, rows: Any, show: Any) -> None:
    store.job("front of bets", "base", NONE, marks(90, 100))
    losing = [index >= 10 for index in range(30)]  # ten losses: p 0.013, and 5 %/3 decides
    asked = {"questions_asked": 30.0, "questions_left": 70.0, "early_stop_comparisons": 3.0}
    facts = {"fact.early_stop_vs": "quantization=none · base"}
    store.job("front of bets", "stopped", NF4, losing, metrics=asked, tags=facts)
    store.job("front of bets", "plain", {**NONE, "seed": "1"}, marks(90, 100))
    row_by_job = rows("front of bets")
    assert row_by_job["stopped"]["dominated_by"] == "base"
    assert row_by_job["plain"]["dominated_by"] is None
    out = " ".join(show("front of bets", "--explain")[1].split())
    assert "accuracy +33.3 points" in out, "on the 30 questions that both have"
    assert "Where a run was compared while it ran, its e-process decides at its own share of 5 %" in out
    assert "at most 6.7 of 100 such tables wrongly call a run dominated" in out
