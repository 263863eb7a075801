"""The card of a recovery study shows values outside the usual range, and why intervals are wide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compared import rows_of

from runner_compare.features.recovery.compute import (
    CandidateRecovery,
    JobFacts,
    QuestionSetFacts,
    RecoveryCell,
    RecoveryTable,
)
from runner_compare.features.recovery.render.card import render_card_page
from runner_compare.features.recovery.render.picture import draw_recovery_panels
from runner_compare.statistics import McNemarTest
from runner_compare.statistics.pooling import PoolingWeights
from runner_compare.statistics.recovery import Recovery


def build_table(recovery: Recovery, cut_off: tuple[int, int] = (0, 0)) -> RecoveryTable:
    (decision,) = rows_of(McNemarTest(20, 2, 100))[1].effects
    cell = RecoveryCell(recovery, replace(decision, cut_off=cut_off))
    facts = JobFacts(("job",), {})
    key = "quantization.name"
    candidate = CandidateRecovery({key: "int8"}, (cell,), None, facts)
    questions = QuestionSetFacts("test", "data", 100, None, "0" * 64, 0.1)
    return RecoveryTable(
        [key], "m", {key: "none"}, facts, PoolingWeights.tasks, None, [questions], [candidate]
    )


@pytest.mark.parametrize("value", [0.9, 2.8])
def test_the_point_of_a_candidate_is_inside_the_panel(value: float) -> None:
    (pane,) = draw_recovery_panels(build_table(Recovery(value, 0.5, 9.0, 0.28, 0.1, 100))).axes
    low, high = pane.get_xlim()
    (point,) = [float(np.asarray(line.get_xdata())[0]) for line in pane.lines if line.get_marker() == "o"]
    assert point == pytest.approx(100 * value)
    assert low < point < high < 400, "the long interval is cut"


def test_the_card_says_that_answers_were_cut_off() -> None:
    recovery = Recovery(0.9, 0.5, 1.2, 0.28, 0.1, 100)
    pages = [render_card_page(build_table(recovery, cut_off)) for cut_off in ((0, 0), (3, 0))]
    assert ["cut off" in page for page in pages] == [False, True]
