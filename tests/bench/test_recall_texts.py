"""A short run of the simulation of haystacks: questions as units are wrong about further haystacks."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.thorough
def test_clusters_hold_for_further_texts_and_questions_do_not(generator: np.random.Generator) -> None:
    import recall_null as models
    import recall_texts_null as simulation

    (model,) = (own for own in models.MODELS if own.name == "loses just the margin")
    recalls = [model.recall(length, 0.5, "usual") for length in models.LENGTHS]

    def false_tables(texts: int, by_text: bool) -> int:
        drawn = np.array([simulation.draw_right(generator, recalls, 10, texts) for _ in range(20)])
        counts = simulation.Counts()
        for tests in simulation.all_tests(drawn, texts, by_text):
            simulation.count_table(counts, simulation.share_level(tests), model.true)
        return counts.false

    assert false_tables(30, True) <= 2
    assert false_tables(1, False) >= 4, "the control"


@pytest.mark.thorough
def test_the_arrays_say_what_the_product_says(generator: np.random.Generator) -> None:
    import recall_null as models
    import recall_texts_null as simulation

    from runner_compare.features.recall.compute import RecallFindings, divide_error_rate

    recalls = [0.95, 0.95, 0.95, 0.5, 0.5]
    for texts, by_text in ((1, False), (30, True)):
        right = simulation.draw_right(generator, recalls, 2, texts)
        (tests,) = simulation.all_tests(right[None], texts, by_text)
        outcomes = [simulation.outcomes_of(own, texts, by_text) for own in right]
        findings = divide_error_rate(
            {str(at): RecallFindings(own, models.MARGIN) for at, own in enumerate(outcomes)}
        )
        assert simulation.share_level(tests) == [own.effective_length for own in findings.values()]
