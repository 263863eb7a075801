"""A short run of the simulation of effective lengths: what is said holds, and the simple rules do not."""

from __future__ import annotations

import numpy as np


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
    assert again.longest_shown == 8, "the control: the longest length that a test shows to be within the margin"
    assert counts("knows nearly nothing", 10, 5).nothing_said == 5


def test_equal_settings_are_rarely_called_different(generator: np.random.Generator) -> None:
    """Ten equal settings at five lengths."""
    import recall_null as simulation

    (model,) = (model for model in simulation.MODELS if model.name == "knows half")
    different, unadjusted, _ = simulation.called_different(generator, model, 20, 30)
    assert different.low <= 0.05
    assert unadjusted.low > 0.2, "the control: each length and setting at 5 % of its own"
