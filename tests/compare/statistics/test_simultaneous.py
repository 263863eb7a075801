"""The interval beside a decision never contradicts it, and the intervals of a table hold
together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from runner_compare.metrics import BetterDirection
from runner_compare.model.data import Run, TableRow
from runner_compare.render.effects import build_effect_records_by_key, format_effect_and_interval
from runner_compare.render.margins import UNDECIDED
from runner_compare.statistics import (
    RATIOS,
    Decision,
    Finding,
    FisherTest,
    MarginVerdict,
    McNemarTest,
    MeanFlipTest,
    Measurements,
    MetricFlipTest,
    RunComparison,
    SeedTest,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    Test,
    create_pooled_test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.pooling import PairedVerdicts, PoolingWeights
from runner_compare.statistics.simultaneous import align_interval_with_decision

MARGINS = {"accuracy": 0.04, "log_likelihood": 0.05, RATIOS: 0.1}
SHOWN_WITHIN = {MarginVerdict.better, MarginVerdict.as_good, MarginVerdict.worse_but_within}


def drawn_test(draw: Random, kind: str) -> Test:
    """Draw a comparison whose difference is anything from none to clear."""
    loss = draw.choice((0.0, 0.02, 0.04, 0.08, 0.2)) * draw.choice((-1, 1))
    n = draw.choice((40, 200, 800))
    wins, losses = (
        sum(draw.random() < share for _ in range(n)) for share in (0.03 + max(0, loss), 0.03 + max(0, -loss))
    )
    if kind == "mcnemar":
        return McNemarTest(wins, min(losses, n - wins), n)
    if kind == "fisher":
        return FisherTest(n // 2 + wins // 2, n, n // 2 + losses // 2, n)
    if kind == "pooled":
        tasks = [PairedVerdicts(wins // 2, losses // 2, n, n // 2)] * 2
        return create_pooled_test(tasks, PoolingWeights.tasks)
    families = draw.choice((8, 18, 40))
    differences = [
        float(draw.choice((-1, 0, 0, 0, 1)) if draw.random() > abs(loss) else np.sign(loss))
        for _ in range(6 * families)
    ]
    if kind == "mean":
        return MeanFlipTest(differences, [at // 6 for at in range(6 * families)], "story")
    if kind == "seeds":
        rates = [[0.5 + draw.gauss(0, 0.02) for _ in range(3)] for _ in range(2)]
        return SeedTest(MeanFlipTest(differences, samples=3), *rates)
    numbers = [draw.gauss(loss, 0.2) for _ in range(60)]
    if kind == "texts":
        return SignFlipTest(numbers, [1.0] * 60, "token")
    if kind == "numbers":
        base = [draw.random() for _ in range(60)]
        moved = [one + number for one, number in zip(base, numbers, strict=True)]
        return MetricFlipTest("f1", numbers, [1.0] * 60, BetterDirection.lower, moved, base)
    runs = [[draw.lognormvariate(shift, 0.02) for _ in range(4)] for shift in (loss, 0.0)]
    return StudentTTest("decode_tok_per_s", *(Measurements(side, side) for side in runs))


def assert_agrees(it: Decision) -> None:
    """Check that the interval and its decision say the same."""
    low, high = it.simultaneous_interval
    assert low <= it.value <= high
    assert (low > it.neutral_value or high < it.neutral_value) == (it.finding is not Finding.open)
    if it.margin_value is None:
        return
    is_lower_better = it.is_ratio and it.margin_value > it.neutral_value
    worst, best = (high, low) if is_lower_better else (low, high)
    sign = -1 if is_lower_better else 1
    assert (sign * (worst - it.margin_value) > 0) == (it.verdict in SHOWN_WITHIN)
    assert (sign * (best - it.margin_value) < 0) == (it.verdict is MarginVerdict.worse_by_more)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        ("mcnemar", 60),
        ("fisher", 8),
        ("pooled", 20),
        ("mean", 20),
        ("seeds", 3),
        ("texts", 10),
        ("numbers", 10),
        ("runs", 40),
    ],
)
def test_no_interval_contradicts_what_is_decided_beside_it(kind: str, tables: int) -> None:
    draw, seen = Random(kind), set()
    for _ in range(tables):
        rows = [drawn_test(draw, kind) for _ in range(draw.choice((1, 3, 6)))]
        for it in decide_comparisons_with_holm(rows, MARGINS):
            assert_agrees(it)
            seen |= {it.finding, it.verdict}
    assert len(seen) > 3 or kind == "seeds", "tables of one kind would show nothing"


def test_answers_that_were_cut_off_widen_the_interval_of_a_row() -> None:
    ends = McNemarTest(2, 30, 200), McNemarTest(12, 4, 200)
    (it,) = decide_comparisons_with_holm([RunComparison(McNemarTest(2, 20, 200), (10, 4), ends)], MARGINS)
    assert it.finding is Finding.open
    assert_agrees(it)
    assert it.low > -0.2
    assert it.simultaneous_low <= min(ends[0].effect.low, it.low)
    (kept,) = decide_comparisons_with_holm(
        [RunComparison(McNemarTest(2, 60, 200), (1, 0), (McNemarTest(2, 61, 200), McNemarTest(2, 59, 200)))]
    )
    assert kept.finding is Finding.worse
    assert_agrees(kept)


def test_what_a_run_decided_at_its_own_share_keeps_its_interval() -> None:
    bets = SequentialTest([(True, False), (True, True)] * 40, 4)
    it, *_ = decide_comparisons_with_holm([bets, McNemarTest(3, 1, 100), McNemarTest(1, 3, 100)], MARGINS)
    assert it.simultaneous_interval == (it.low, it.high)
    assert_agrees(it)


def test_a_table_shows_the_interval_that_agrees_and_a_record_has_both() -> None:
    tests = [McNemarTest(1, 5, 500), McNemarTest(7, 13, 500), McNemarTest(51, 21, 500)]
    first, *others = decide_comparisons_with_holm([*tests, McNemarTest(4, 38, 500)], {"accuracy": 0.02})
    alone = decide_comparisons_with_holm(tests, {"accuracy": 0.02})[0]
    assert first.low == alone.low, "the interval of a comparison alone stays as it is"
    assert first.simultaneous_low < first.low
    assert format_effect_and_interval(first)[1].startswith("[−2."), (
        f"{UNDECIDED} within 2 points, as its verdict says"
    )
    record = build_effect_records_by_key(TableRow(Run("r", "r", "any", "1", "", {}, {}), {}, effects=[first]))
    comparison = record["comparison"]
    assert (comparison["simultaneous_low"], comparison["simultaneous_high"]) == first.simultaneous_interval
    assert (comparison["difference_low"], comparison["difference_high"]) == (first.low, first.high)
    assert json.dumps(record)
    (single,) = decide_comparisons_with_holm([tests[0]])
    assert single.simultaneous_interval == (single.low, single.high)
    assert all(it.simultaneous_high > it.high for it in others if it.finding is Finding.open)


def test_ends_move_no_further_than_the_decision_asks() -> None:
    assert align_interval_with_decision((-0.1, 0.3), 0.2, [(0.0, False)]) == (-0.1, 0.3)
    assert align_interval_with_decision((0.1, 0.3), 0.2, [(0.0, True)]) == (0.1, 0.3)
    assert align_interval_with_decision((0.1, 0.3), 0.2, [(0.0, False)]) == (0.0, 0.3)
    low, high = align_interval_with_decision((-0.1, 0.3), 0.2, [(0.0, True)])
    assert (0 < low < 0.01, high) == (True, 0.3)
    low, high = align_interval_with_decision((-0.3, 0.01), -0.2, [(0.0, True), (-0.02, True)])
    assert (low, -0.03 < high < -0.02) == (-0.3, True)


@dataclass(frozen=True)
class Truth:
    """The chances of wins and losses of a row."""

    win: float
    loss: float


@pytest.mark.thorough
@pytest.mark.parametrize(
    "truths",
    [
        [Truth(0.05, 0.05)] * 6,
        [Truth(0.05, 0.05)] * 3 + [Truth(0.03, 0.09)] * 3,
        [Truth(0.05, 0.05)] + [Truth(0.02, 0.14)] * 5,
        [Truth(0.04, 0.08)] * 6,
    ],
)
def test_the_intervals_of_a_table_contain_all_true_differences(truths: list[Truth]) -> None:
    generator, tables, missed = np.random.default_rng(3), 400, 0
    for _ in range(tables):
        counts = [generator.multinomial(500, [it.win, it.loss, 1 - it.win - it.loss]) for it in truths]
        rows = decide_comparisons_with_holm(
            [McNemarTest(int(it[0]), int(it[1]), 500) for it in counts], {"accuracy": 0.02}
        )
        missed += any(
            not row.simultaneous_low <= truth.win - truth.loss <= row.simultaneous_high
            for row, truth in zip(rows, truths, strict=True)
        )
    assert missed / tables <= 0.06 + 2 * (0.06 * 0.94 / tables) ** 0.5
