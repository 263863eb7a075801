"""A short run of the simulation of effective lengths: what is said holds, and the simple rules do
not."""

from __future__ import annotations

import numpy as np
import pytest

from runner.tasks.recall.keys import RecallConfig


@pytest.mark.thorough
def test_intervals_hold_and_the_simple_rules_do_not(generator: np.random.Generator) -> None:
    """Effective lengths and lost depths of models that are known to forget."""
    import recall_null as simulation

    models = {model.name: model for model in simulation.MODELS}

    def counts(name: str, a_cell: int, draws: int, is_same_at_depths: bool = False) -> simulation.Counts:
        counted = simulation.Counts()
        for _ in range(draws):
            (outcomes,) = simulation.drawn(generator, models[name], a_cell, is_same_at_depths)
            simulation.count(counted, models[name], outcomes, is_same_at_depths)
        return counted

    sharp = counts("forgets all beyond 4,096", 50, 12)
    assert (sharp.found, sharp.missed) == (12, 0)
    middle = counts("forgets depths 0.25 to 0.75", 10, 20)
    assert middle.depths_found >= 18
    assert middle.depths_false <= 4
    margin = counts("loses just the margin", 10, 40)
    assert margin.missed <= 4
    assert margin.as_counted >= 8, "the control: the longest length within the margin, as it was counted"
    again = counts("remembers again at 8,192", 50, 8)
    assert again.missed == 0
    assert again.longest_shown == 8, (
        "the control: the longest length that a test shows to be within the margin"
    )
    assert counts("knows nearly nothing", 10, 5).nothing_said == 5


@pytest.mark.thorough
def test_the_usual_number_of_cases_finds_what_is_forgotten(generator: np.random.Generator) -> None:
    """Of most models that forget, the effective length is found to the next length."""
    import recall_null as simulation

    model = simulation.MODELS[0]

    def found(cases: int) -> int:
        counted = simulation.Counts()
        for _ in range(30):
            simulation.count(counted, model, simulation.drawn(generator, model, cases, False)[0], False)
        return counted.found

    assert found(RecallConfig().cases) >= 22
    assert found(10) <= 14, "the control: fewer decide less"


@pytest.mark.thorough
def test_as_many_questions_as_the_note_says_decide(generator: np.random.Generator) -> None:
    """Ten questions a depth rarely decide, and what is said to be needed then does."""
    import recall_null as simulation

    (model,) = (model for model in simulation.MODELS if model.name == "forgets all beyond 4,096")
    decided, said = simulation.needed_and_asked(generator, model, 10, 30)
    assert len(said) >= 15, "few questions: most do not decide"
    assert min(said) > 50
    assert decided >= 0.6 * len(said)


@pytest.mark.thorough
def test_equal_settings_are_rarely_called_different(generator: np.random.Generator) -> None:
    """Ten equal settings at five lengths."""
    import recall_null as simulation

    (model,) = (model for model in simulation.MODELS if model.name == "knows half")
    different, unadjusted, _ = simulation.called_different(generator, model, 20, 30)
    assert different.low <= 0.05
    assert unadjusted.low > 0.2, "the control: each length and setting at 5 % of its own"


@pytest.mark.thorough
def test_of_ten_settings_none_is_shown_to_reach_too_far(generator: np.random.Generator) -> None:
    """Equal settings that lose just more than the margin."""
    import recall_null as simulation
    from simulation import Rate

    (model,) = (m for m in simulation.MODELS if m.name == "loses just more beyond 1,024")
    (too_far, _), (alone, _) = simulation.reached_too_far(generator, model, 50, 40, 0.0)
    assert Rate(too_far, 40).low <= 0.05
    assert alone > too_far, "the control: each setting by itself"


@pytest.mark.thorough
def test_an_effective_length_holds_for_its_texts(generator: np.random.Generator) -> None:
    import recall_null as simulation

    (model,) = (m for m in simulation.MODELS if m.name == "loses just more beyond 4,096")
    missed, too_long, too_short = simulation.missed_texts(generator, model, 0.3, 40)
    assert missed.low <= 0.05
    assert too_long.times + too_short.times > 4, "the control: over all texts"
