"""Short runs of the simulation of gates: few and skewed texts pass no gate that the truth does not
pass."""

from __future__ import annotations

import numpy as np
import pytest

from runner_compare.release_gate.verdicts import GateVerdict


@pytest.mark.thorough
def test_gates_on_few_and_skewed_texts_hold_and_students_interval_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gates_null
    from simulation import Limits

    monkeypatch.setattr(gates_null, "TEXTS", (10, 50))
    limits = Limits()
    cases = (case for case in gates_null.text_cases(None) if "0.5" not in case[0])
    lines = gates_null.simulate(np.random.default_rng(1), 100, cases, limits)
    assert {name for name, *_ in lines} == {
        "perplexity, spread 1.0", "perplexity, spread 1.5", "KL, spread 1.0", "rank_1_share", "top_1_agreement",
    }  # fmt: skip
    for _, n, wrongly, before in lines:
        assert wrongly.low <= 0.025
        if n < 50:
            assert wrongly.times == 0
            assert before.low > 0.05, "the control"
    assert limits.conclude(0.0) == 0
    limits.gates.append(lines[0][3])
    assert limits.conclude(0.0) == 1, "the limit is one that Student's interval breaks"


@pytest.mark.thorough
def test_all_gates_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    import gates_null

    monkeypatch.setattr("sys.argv", ["gates_null.py", "--pairs", "300"])
    assert gates_null.main() == 0


@pytest.mark.thorough
def test_the_error_of_drawn_tokens_holds_where_it_is_given(generator: np.random.Generator) -> None:
    """A KL from drawn tokens: 1.96 errors of few tokens miss, and these have no ±."""
    from drawn_null import misses

    now, before = misses(generator, 60, 40, 0.0015)
    assert now is None
    assert before.low > 0.1, "the control"
    now, _ = misses(generator, 60, 2000, 0.0015)
    assert now is not None
    assert now.low <= 0.06


def test_the_cost_of_a_right_answer_lies_in_its_interval(generator: np.random.Generator) -> None:
    from right_answer_costs_null import covered

    for setting in ((20, 0.7, "more", 0.2), (200, 0.1, "more", 0.5)):
        missed, _ = covered(generator, 60, setting)
        assert missed.low <= 0.06
    _, by_accuracy = covered(generator, 60, (200, 0.95, "as many", 0.0), wide=1.0)
    assert by_accuracy.low > 0.06, "the control: the tokens of questions count, too"


@pytest.mark.thorough
def test_the_range_of_a_plan_holds_what_the_true_disagreement_needs(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import planning_null

    monkeypatch.setattr(planning_null, "FIRST", [(20, 0.1), (100, 0.2)])
    missed = planning_null.ranges(generator, 60)
    assert len(missed) == 4
    assert all(rate.low <= 0.06 for rate in missed)


@pytest.mark.thorough
def test_the_range_of_a_plan_holds_what_the_true_spread_needs(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spread_ranges_null

    monkeypatch.setattr(spread_ranges_null, "CLUSTERED", [(80, 5, 0.1, 0.3, 1)])
    monkeypatch.setattr(spread_ranges_null, "TEXTS", (80,))
    missed = [*spread_ranges_null.of_clusters(generator, 30), *spread_ranges_null.of_texts(generator, 30)]
    assert len(missed) == 6
    assert all(rate.low <= 0.06 for rate in missed)


@pytest.mark.thorough
def test_files_with_unequal_tails_are_seldom_ranked(generator: np.random.Generator) -> None:
    """Six files of equal KL, of which every other one has it from a few texts."""
    from files_null import LEAST, Line, rates

    line = Line("6 equal files", (LEAST,) * 6, 200, "unequal")
    found, _, _ = rates(generator, line, 40)
    assert found["rank"].times <= 5
    assert found["sentence"].times == 0


def test_a_history_rarely_stops_what_is_within_the_margin(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control forgets the nights before, and stops half of the candidates at the margin."""
    import gate_nights_null
    from simulation import Limits

    monkeypatch.setattr(gate_nights_null, "SETTINGS", [(500, 0.04, 0.0), (500, 0.04, -0.02)])
    limits = Limits()
    (control,) = gate_nights_null.nights(generator, 60, limits)
    assert control.times > 15
    assert limits.conclude(0.0) == 0


@pytest.mark.thorough
def test_asking_until_decided_lets_equal_models_pass_and_finds_losses(generator: np.random.Generator) -> None:
    """The control, a fixed threshold, stops half of the candidates whose loss is just the margin."""
    from gate_asking_null import rates

    asked, questions, _, _ = rates(generator, 30, 0.04, 0.0)
    assert asked[GateVerdict.go].times >= 28
    assert questions < 1500
    at_margin, _, _, threshold = rates(generator, 30, 0.04, -0.02)
    assert at_margin[GateVerdict.go].times <= 3
    assert threshold.times > 5
    lost, _, _, _ = rates(generator, 30, 0.08, -0.05)
    assert lost[GateVerdict.no_go].times >= 28


def test_the_tests_of_a_policy_share_their_error(generator: np.random.Generator) -> None:
    """The control gives each of eight tests the whole 5 %."""
    from gate_tasks_null import simulate

    shared, whole, go = simulate(generator, 150, 8, 500, 0.08, 8)
    assert shared.low <= 0.05
    assert whole.low > 0.05
    assert go.low <= 0.025
