"""Effects: one judge for all of them, families by measure, and the difference that each method can
detect."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from statistics import stdev

import pytest
from compared import Known

from runner_compare.statistics import (
    RATIOS,
    Effect,
    Finding,
    FisherTest,
    MarginVerdict,
    McNemarTest,
    Measurements,
    Method,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    Test,
    bound_wrong_finding_probability,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.effects import compute_margin_test_p_value
from runner_compare.statistics.planning import find_smallest_detectable_difference
from runner_compare.statistics.ratios import (
    compute_ratio_standard_error,
    find_detectable_ratio_difference,
    kurtosis,
    skewness,
)
from runner_compare.statistics.run_ratios import plan_runs_per_job
from runner_compare.statistics.stats import find_detectable_unpaired_difference


def ratio(measure: str, p: float, value: float = 2.0) -> Known:
    return Known(Effect(Method.student_t, measure, value, 1.5, 2.5, p, 5, 5, is_ratio=True))


def over_runs(measure: str, ours: list[float], theirs: list[float]) -> StudentTTest:
    return StudentTTest(measure, Measurements(ours[:1], ours), Measurements(theirs[:1], theirs))


def small_samples() -> Iterator[Test]:
    yield McNemarTest(0, 5, 200)  # p 0.0625, and Tango's interval alone ends at -0.6 points
    yield from (McNemarTest(wins, losses, 60) for wins in range(30) for losses in range(30))
    yield from (FisherTest(a, 12, b, 15) for a in range(13) for b in range(16))
    generator = random.Random(0)
    for n in (2, 3, 5, 20):
        for _ in range(50):
            yield SignFlipTest([generator.gauss(0.4, 1) for _ in range(n)], [1.0] * n, "token")
            yield over_runs("load_s", *([generator.uniform(1, 1.3) for _ in range(n)] for _ in "ab"))


@pytest.mark.thorough
@pytest.mark.slow
def test_the_interval_leaves_out_no_difference_where_the_test_does_and_only_there() -> None:
    kinds = set()
    for it in (test.effect for test in small_samples()):
        if not it.is_tested:
            continue  # a range of repeats, about which nothing is claimed
        excluded = not it.low <= it.neutral_value <= it.high
        assert not excluded or it.p < 0.05, it
        if it.method in {Method.mcnemar, Method.fisher}:
            assert excluded == (it.p < 0.05), it
        kinds.add((it.method, excluded))
    methods = {Method.mcnemar, Method.fisher, Method.sign_flips, Method.student_t}
    assert kinds == {(method, excluded) for method in methods for excluded in (True, False)}


def test_a_family_is_all_comparisons_of_one_figure() -> None:
    ratios = [ratio(f"speed/cell_{number}", 0.008) for number in range(4)]
    ratios += [ratio("load_s", 0.04)]
    decisions = decide_comparisons_with_holm(ratios)
    assert [it.p_holm for it in decisions] == pytest.approx([0.032] * 4 + [0.04])
    assert [it.comparisons for it in decisions] == [4] * 4 + [1]
    assert {str(it.finding) for it in decisions} == {"larger"}


def test_accuracies_are_one_family_by_whatever_method() -> None:
    pairs = [(index >= 30, True) for index in range(100)]
    tests = [
        McNemarTest(0, 30, 100, 100),
        FisherTest(70, 100, 100, 100),
        SequentialTest(pairs),
        McNemarTest(1, 1, 100, 50),
    ]
    effects = decide_comparisons_with_holm([*tests, ratio("load_s", 0.9)])[:4]
    assert [it.comparisons for it in effects] == [4] * 4
    assert [it.finding for it in effects] == [Finding.worse] * 3 + [Finding.open]
    assert [(it.n, it.baseline_n, it.counts["baseline_correct"]) for it in effects[:3]] == [
        (100, 100, 100)
    ] * 3
    assert [it.value for it in effects[:3]] == pytest.approx([-0.3] * 3)


@pytest.mark.parametrize(
    ("value", "finding"), [(2.0, "larger"), (0.5, "smaller"), (1.0, "no difference shown")]
)
def test_a_ratio_is_found_larger_or_smaller_than_1(value: float, finding: str) -> None:
    (effect,) = decide_comparisons_with_holm([ratio("load_s", 0.001, value)])
    assert str(effect.finding) == finding


def test_the_detectable_difference_is_that_of_the_method_at_the_strictest_level_of_its_family() -> None:
    differences, sizes = [0.1, -0.3, 0.2, 0.4, -0.1], [3.0, 5.0, 2.0, 4.0, 4.0]
    of_verdicts = [McNemarTest(20, 10, 500), FisherTest(300, 400, 320, 500)]
    likelihood = SignFlipTest(differences, sizes, "token")
    paired, unpaired, of_likelihood = (
        it.detectable for it in decide_comparisons_with_holm([*of_verdicts, likelihood])
    )
    assert paired == find_smallest_detectable_difference(500, 30 / 500, alpha=0.05 / 2)
    assert unpaired == find_detectable_unpaired_difference(400, 500, 620 / 900, alpha=0.05 / 2)
    bend = skewness(differences, sizes) / 5**0.5
    error, tails = compute_ratio_standard_error(differences, sizes), kurtosis(differences, sizes)
    assert of_likelihood == find_detectable_ratio_difference(
        error, 5, 0.05, scaled_skewness=bend, kurtosis=tails
    )
    assert (of_likelihood or 0) > (find_detectable_ratio_difference(error, 5, 0.05, kurtosis=tails) or 1)
    without = decide_comparisons_with_holm(
        [SequentialTest([(True, False)]), over_runs("load_s", [2.0, 3.0], [1.0, 1.5])]
    )
    assert [it.detectable for it in without] == [None, None]


def test_repeats_within_one_process_name_nothing() -> None:
    """Twice the speed in one run each, and hardly any difference between repeats: still nothing is
    known."""
    slow, fast = Measurements([100.0, 101.0, 102.0], [101.0]), Measurements([200.0, 204.0, 202.0], [202.0])
    (it,) = decide_comparisons_with_holm([StudentTTest("decode_tok_per_s", fast, slow)], {RATIOS: 0.05})
    assert (it.method, it.is_tested, it.finding) == (Method.too_few_runs, False, Finding.open)
    assert (it.value, it.low, it.high) == (2.0, 200 / 102, 204 / 100)
    assert (it.n, it.baseline_n, it.counts["repeats"]) == (1, 1, 3)
    assert (it.verdict, it.needed) == (MarginVerdict.undecided, None)


def test_runs_decide_and_their_repeats_do_not() -> None:
    slow = Measurements([50.0], [100.0, 101.0, 99.0, 100.5])
    fast = Measurements([50.0], [110.0, 111.0, 109.0, 110.5])
    (it,) = decide_comparisons_with_holm([StudentTTest("decode_tok_per_s", fast, slow)])
    assert (it.method, it.finding, it.n) == (Method.student_t, Finding.larger, 4)
    assert 1.07 < it.low < it.value < it.high < 1.13


@pytest.mark.parametrize(
    ("factor", "higher_is_better", "lower_is_better"),
    [
        (1.3, MarginVerdict.better, MarginVerdict.worse_by_more),
        (1.0, MarginVerdict.as_good, MarginVerdict.as_good),
        (1.02, MarginVerdict.better, MarginVerdict.worse_but_within),
        (1 / 1.02, MarginVerdict.worse_but_within, MarginVerdict.better),
        (1 / 1.3, MarginVerdict.worse_by_more, MarginVerdict.better),
    ],
)
def test_a_margin_of_a_ratio_knows_which_direction_is_better(
    factor: float, higher_is_better: MarginVerdict, lower_is_better: MarginVerdict
) -> None:
    base = [100.0, 100.2, 99.8, 100.1, 99.9]
    for measure, verdict in (("decode_tok_per_s/batch_8", higher_is_better), ("ttft_s", lower_is_better)):
        test = over_runs(measure, [factor * value for value in base], base)
        (it,) = decide_comparisons_with_holm([test], {RATIOS: 0.05, "accuracy": 0.02})
        assert (it.verdict, it.margin, it.needed) == (verdict, 0.05, None)


def test_an_undecided_ratio_says_how_many_runs_would_decide() -> None:
    noisy = [100.0, 110.0, 95.0, 104.0]
    (it,) = decide_comparisons_with_holm([over_runs("decode_tok_per_s", noisy, noisy[::-1])], {RATIOS: 0.05})
    assert it.verdict is MarginVerdict.undecided
    spread = stdev(math.log(value) for value in noisy)
    assert it.needed == plan_runs_per_job(math.log(1.05) / spread)


def test_a_run_that_was_compared_while_it_ran_keeps_its_verdict_and_others_are_adjusted_without_it() -> None:
    pairs = [(False, True)] * 10 + [(True, True)] * 20  # p 0.013 by bets
    of_runs = [SequentialTest(pairs, 3) for _ in range(3)]
    counted_afterwards = [McNemarTest(0, 7, 100)] * 2  # p 0.016
    decisions = decide_comparisons_with_holm([*of_runs, *counted_afterwards])
    own, others = decisions[:3], decisions[3:]
    assert [it.finding for it in (*own, *others)] == [Finding.worse] * 5
    assert [it.p_holm for it in own] == pytest.approx([3 * own[0].p] * 3)
    assert [it.comparisons for it in (*own, *others)] == [3, 3, 3, 2, 2]
    assert [it.p_holm for it in others] == pytest.approx([2 * others[0].p] * 2)
    without_record = [SequentialTest(pairs) for _ in range(4)]  # of an earlier version: Holm's, as any other
    *adjusted, still_own = decide_comparisons_with_holm([*without_record, of_runs[0]])
    assert {it.finding for it in adjusted} == {Finding.open}
    assert still_own.finding is Finding.worse
    assert still_own.low < adjusted[0].low  # at 98.3 % and at 95 %


def test_a_margin_is_decided_at_the_share_of_the_run() -> None:
    nearly_all_alike = [(True, True)] * 400 + [(False, True)] * 2
    own, strict = decide_comparisons_with_holm(
        [SequentialTest(nearly_all_alike, count) for count in (1, 500)], {"accuracy": 0.02}
    )
    assert (own.verdict, strict.verdict) == (MarginVerdict.as_good, MarginVerdict.undecided)
    many = decide_comparisons_with_holm(
        [SequentialTest([(False, True)] * 10, 2) for _ in range(2)], {"accuracy": 0.02}
    )
    assert {it.verdict for it in many} == {MarginVerdict.worse_by_more}


def test_findings_and_margins_share_one_error() -> None:
    """Each of two rows is asked two things; what is shown of one leaves the other its whole share,
    and no more."""
    clear, close = decide_comparisons_with_holm(
        [McNemarTest(0, 200, 1000), McNemarTest(1, 10, 1000)], {"accuracy": 0.02}
    )
    assert (clear.verdict, close.finding) == (MarginVerdict.worse_by_more, Finding.worse)
    assert close.p_holm == pytest.approx(close.p)  # all about the first row is shown
    tests = McNemarTest(2, 12, 200), McNemarTest(1, 8, 1000)
    half, other = decide_comparisons_with_holm(tests, {"accuracy": 0.02})
    # something about this row stays open, so it still counts
    assert half.verdict is MarginVerdict.undecided
    assert other.p_holm == pytest.approx(2 * other.p)
    half, other = decide_comparisons_with_holm(tests)
    assert other.p_holm == pytest.approx(max(2 * half.p, other.p))


def test_a_shown_difference_needs_no_questions_for_equal_runs() -> None:
    (effect,) = decide_comparisons_with_holm([McNemarTest(10, 60, 2000)], {"accuracy": 0.02})
    assert (effect.finding, effect.verdict, effect.needed) == (Finding.worse, MarginVerdict.undecided, None)


@pytest.mark.parametrize(("value", "limit"), [(1.2, 1.05), (0.8, 1 / 1.05)])
def test_p_beyond_a_limit_is_never_below_that_of_a_difference(value: float, limit: float) -> None:
    effect = Effect(Method.student_t, "load_s", value, 0.5, 2.0, 0.2, 4, 4, is_ratio=True)
    assert compute_margin_test_p_value(Known(effect, 0.01), limit) == 0.2
    beyond = replace(effect, value=1 / value)
    assert compute_margin_test_p_value(Known(beyond, 0.01), limit) == 0.01
    assert compute_margin_test_p_value(Known(replace(beyond, p=0.001), 0.01), limit) == 0.001


def test_the_errors_of_a_table_add_up_over_shares_and_one_adjusted_family() -> None:
    def own(comparisons: int) -> SequentialTest:
        return SequentialTest([(True, True)], comparisons)

    def most(*tests: Test) -> float:
        return bound_wrong_finding_probability(decide_comparisons_with_holm(tests))

    assert most() == 0
    assert most(*[McNemarTest(1, 1, 9)] * 4) == 0.05
    assert most(*[own(3)] * 3) == pytest.approx(0.05)
    assert most(own(1), own(1)) == pytest.approx(0.1)
    assert most(own(2), own(2), McNemarTest(1, 1, 9)) == pytest.approx(0.1)
