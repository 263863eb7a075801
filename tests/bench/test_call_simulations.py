"""Short runs of the simulations of calls of functions, and of answers that guessed tokens have changed."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.thorough
def test_calls_of_functions_are_told_apart_by_what_is_true() -> None:
    """Equal settings, one whose calls fail where contexts are long, and the control without a
    shared error."""
    from simulation import Rate
    from tools_null import LOST, NAMES, compared, is_said

    from runner_compare.statistics import ALPHA

    generator = np.random.default_rng(1)
    equal = [compared(generator, 40, 0.9, 0.0).values() for _ in range(40)]
    said = sum(any(map(is_said, decisions)) for decisions in equal)
    alone = sum(any(decision.p < ALPHA for decision in decisions) for decisions in equal)
    assert Rate(said, 40).low <= 0.05
    assert alone > said
    worse = [compared(generator, 80, 0.9, 0.4) for _ in range(10)]
    assert sum(decisions[NAMES[-1], LOST].finding == "worse" for decisions in worse) >= 8


def test_answers_that_guesses_have_changed_are_judged_by_what_is_true() -> None:
    from simulation import GOOD, Rate
    from speculation_null import drawn

    generator = np.random.default_rng(1)
    for kind in ("any", "in families"):
        same = [drawn(generator, 200, 0.2, kind)[0] for _ in range(60)]
        false = sum(decision.finding != "no difference shown" for decision in same)
        assert Rate(false, 60).low <= 0.05
    wrong = [drawn(generator, 1319, 0.2, "any", 0.3) for _ in range(20)]
    assert all(decision.finding == "worse" and decision.verdict not in GOOD for decision, _ in wrong)
    assert all(0.05 < lost < 0.15 for _, lost in wrong)


@pytest.mark.thorough
def test_settings_that_react_to_functions_are_not_called_different() -> None:
    """Equal settings, a loss of all, and the control: questions as if they were independent."""
    from simulation import Rate
    from tools_null import Questions, p_of_rows

    questions, generator = Questions.shipped(), np.random.default_rng(1)
    assert questions.parts.shape == (320, 26)

    def found(share: float, loss: float, pairs: int) -> tuple[int, int]:
        ps = [p_of_rows(questions.answered(generator, share, 0.5, (0.0, loss))) for _ in range(pairs)]
        own, alone = (sum(p[at] < 0.05 for p in ps) for at in (0, 1))
        return own, alone

    false, alone = found(0.5, 0.0, 40)
    assert Rate(false, 40).low <= 0.05
    assert Rate(alone, 40).low > 0.05, "the control"
    assert found(0.1, 0.2, 10)[0] >= 7


def test_changed_answers_are_bounded_by_families() -> None:
    """The upper end holds where it is hardest; ends that count each answer by itself do not."""
    from speculation_null import ALMOST, count_texts, rates_of_ends

    generator = np.random.default_rng(1)
    for n, unit in ((13, 1), (200, 10)):
        hardest = count_texts(n, 0, unit).interval[1] + ALMOST
        below, _, controls = rates_of_ends(generator, n, unit, hardest, 1000)
        assert below.low <= 0.025
        assert controls[0].low > 0.05, "the control: no correction for few answers"
        assert (controls[2].low > 0.05) == (unit > 1), "the control: answers by themselves"


@pytest.mark.thorough
def test_steps_and_longer_contexts_are_told_apart_by_what_is_true() -> None:
    """Equal ones, true changes, and the control: questions as if they were independent."""
    from simulation import Rate
    from tool_steps_null import simulate_lengths, simulate_steps
    from tools_null import Questions

    questions, generator = Questions.shipped(), np.random.default_rng(1)
    for simulated in (simulate_steps, simulate_lengths):
        (wrong, alone), _ = simulated(questions, generator, 100, 0.5, 0.0)
        assert isinstance(wrong, Rate)
        assert wrong.low <= 0.05
        assert alone.low > 0.05, "the control"
        (wrong, _), (found, _) = simulated(questions, generator, 40, 0.0, 0.3)
        assert wrong.low <= 0.05
        assert found.times >= 30
