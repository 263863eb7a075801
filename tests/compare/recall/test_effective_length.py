"""The effective length: what is said of it is what its tests show, and no more."""

from __future__ import annotations

import pytest

from runner_compare.features.recall.compute import RecallFindings, compute_recall_by_length
from runner_compare.features.recall.render.recall_text import (
    build_effective_length_rows,
    build_recall_by_depth_table,
    describe_effective_context_length,
    format_effective_context_length_sentence,
)
from runner_compare.model.outcomes import QuestionOutcome, RecallPosition
from runner_compare.render.margins import UNDECIDED
from runner_compare.statistics import McNemarTest, MeanFlipTest
from runner_compare.statistics.effective_length import (
    LengthTests,
    compute_recall_loss_tests,
    find_effective_context_length,
)

LENGTHS = (1024, 2048, 4096, 8192)
DEPTHS = (0.0, 0.5, 1.0)
KEPT, OPEN, LOST = (
    LengthTests(0.001, 1.0, True),
    LengthTests(0.3, 1.0, True),
    LengthTests(1.0, 0.001, False),
)
LESS = LengthTests(1.0, 0.3, False)  # as counted lost, and not shown


def answers(
    right: dict[int, int], a_depth: int = 20, kind: str = "single", is_same_at_depths: bool = False
) -> list[QuestionOutcome]:
    """Return answers of which so many are right at each depth of a length."""
    made = []
    for length, count in right.items():
        for depth in DEPTHS:
            for number in range(a_depth):
                question = f"{kind} {number}" if is_same_at_depths else f"{kind} {depth} {number}"
                place = RecallPosition(kind, length, depth)
                made.append(QuestionOutcome(number < count, "prompt", question, recall=place))
    return made


@pytest.mark.parametrize(
    ("tests", "at_least", "below", "counted", "words"),
    [
        ((KEPT, KEPT, KEPT), 8192, None, 8192, "at least 8,192 tokens, the longest tested length"),
        ((KEPT, LOST, LOST), 2048, 4096, 2048, "at least 2,048 tokens, below 4,096 tokens"),
        ((LOST, LOST, LOST), 1024, 2048, 1024, "less than 2,048 tokens: recall is lower than at 1,024 tokens, the shortest tested length"),
        ((OPEN, OPEN, OPEN), 1024, None, 8192, f"{UNDECIDED} between 1,024 and 8,192 tokens"),
        ((OPEN, LESS, LOST), 1024, 8192, 2048, "below 8,192 tokens, not decided at 2,048, 4,096"),
        ((KEPT, OPEN, LESS), 2048, None, 4096, "at least 2,048 tokens, not decided at 4,096, 8,192"),
    ],
)  # fmt: skip
def test_what_is_said_is_what_the_tests_show(
    tests: tuple[LengthTests, ...], at_least: int, below: int | None, counted: int, words: str
) -> None:
    found = find_effective_context_length(LENGTHS, tests)
    assert (found.at_least, found.first_lost_length, found.tokens) == (at_least, below, counted)
    assert describe_effective_context_length(found) == words


def test_recall_that_comes_back_does_not_count() -> None:
    found = find_effective_context_length(LENGTHS, (LOST, KEPT, KEPT))
    assert (found.at_least, found.at_most, found.first_lost_length) == (1024, 1024, 2048)
    undecided_between = find_effective_context_length(LENGTHS, (OPEN, KEPT, KEPT))
    assert (undecided_between.at_least, undecided_between.at_most) == (1024, 8192), (
        "the control: nothing is lost there"
    )


def test_a_length_is_tested_at_half_of_the_error_and_the_shorter_ones_share_the_other_half() -> None:
    barely = LengthTests(1.0, 0.02, False)
    assert find_effective_context_length(LENGTHS[:2], (barely,)).first_lost_length == 2048, "below 0.025"
    assert find_effective_context_length(LENGTHS[:3], (barely, barely)).first_lost_length is None, (
        "not below 0.0125, of two"
    )
    assert (
        find_effective_context_length(LENGTHS[:3], (KEPT, LengthTests(1.0, 0.012, False))).first_lost_length
        == 4096
    )
    kept = LengthTests(0.03, 1.0, True)
    assert find_effective_context_length(LENGTHS[:2], (kept,)).at_least == 1024, "one-sided at 0.025"
    assert find_effective_context_length(LENGTHS[:2], (kept,), alpha=0.1).at_least == 2048


def test_the_tests_are_those_of_the_margin() -> None:
    kept = compute_recall_loss_tests(McNemarTest(0, 0, 36), 0.1, None)
    assert kept.p_kept == pytest.approx(0.9**36)
    assert compute_recall_loss_tests(McNemarTest(0, 0, 35), 0.1, None).p_kept > 0.025, (
        "one question fewer does not show it"
    )
    lost = compute_recall_loss_tests(McNemarTest(0, 60, 60), 0.1, None)
    assert (lost.p_kept, lost.is_kept_as_counted) == (1.0, False)
    assert lost.p_lost < 1e-6
    families = [number // 5 for number in range(100)]
    test = MeanFlipTest([0.0] * 100, families, "question", is_strict=True)
    of_families = compute_recall_loss_tests(test, 0.1, None)
    assert of_families.p_kept > 0.025 > compute_recall_loss_tests(McNemarTest(0, 0, 100), 0.1, None).p_kept, (
        "20 questions are few"
    )


def test_answers_that_were_cut_off_show_neither_that_recall_is_kept_nor_that_it_is_lost() -> None:
    right = answers({1024: 20, 2048: 20})
    cut = [
        outcome._replace(solved=False, cut_off=1)
        if outcome.recall and outcome.recall.length == 2048
        else outcome
        for outcome in right
    ]
    as_wrong = [outcome._replace(cut_off=0) for outcome in cut]
    found, wrong = (
        RecallFindings(tuple(cut)).effective_length,
        RecallFindings(tuple(as_wrong)).effective_length,
    )
    assert found is not None
    assert wrong is not None
    assert (found.at_least, found.first_lost_length) == (1024, None)
    assert wrong.first_lost_length == 2048, "the control"


def test_a_model_that_forgets_beyond_a_length_is_found_from_its_answers() -> None:
    findings = RecallFindings(tuple(answers({1024: 20, 2048: 20, 4096: 1, 8192: 0})))
    assert findings.effective_length is not None
    assert (findings.effective_length.at_least, findings.effective_length.first_lost_length) == (2048, 4096)
    assert [round(length.share, 2) for length in findings.length_recalls] == [1.0, 1.0, 0.05, 0.0]
    assert [length.questions for length in findings.length_recalls] == [60] * 4
    assert format_effective_context_length_sentence(findings).endswith(
        f"(100.0 % [94.0, 100.0]): {describe_effective_context_length(findings.effective_length)}"
    )
    assert not any(lost.is_significant for lost in findings.lost_depths)
    first, *_ = build_recall_by_depth_table(findings)
    assert first == {
        "tokens": 1024, "0": 100, "0.5": 100, "1": 100, "all": 100, "low": 94, "high": 100, "answers": 60
    }  # fmt: skip


def test_the_same_questions_at_all_depths_count_once() -> None:
    same = RecallFindings(tuple(answers({1024: 20, 2048: 20, 4096: 20}, is_same_at_depths=True)))
    other = RecallFindings(tuple(answers({1024: 20, 2048: 20, 4096: 20})))
    assert {length.questions for length in same.length_recalls} == {20}
    assert same.effective_length is not None
    assert other.effective_length is not None
    assert (same.effective_length.at_least, other.effective_length.at_least) == (1024, 4096)
    said = format_effective_context_length_sentence(same)
    assert f"{UNDECIDED} with 20 questions per length" in said
    assert same.units_needed_per_context_length == 36
    assert "at least 36 questions per length" in said


def test_recall_near_zero_has_no_effective_length_and_says_so() -> None:
    findings = RecallFindings(tuple(answers({1024: 1, 2048: 0, 4096: 0})))
    assert findings.effective_length is None
    assert (
        "recall is near zero even at the shortest length: 5.0 % ["
        in format_effective_context_length_sentence(findings)
    )
    assert RecallFindings(tuple(answers({1024: 10, 2048: 0}))).effective_length is not None, "the control"
    wide = RecallFindings(tuple(answers({1024: 20, 2048: 20})), margin=0.95)
    assert wide.effective_length is None
    assert format_effective_context_length_sentence(wide).startswith(
        "recall at the shortest length is not significantly above the margin: 100.0 %"
    )


def test_one_length_and_other_questions_at_each_length_have_none() -> None:
    one = RecallFindings(tuple(answers({1024: 20})))
    assert format_effective_context_length_sentence(one) == "no effective length: only one length was tested"
    outcomes = answers({1024: 20, 2048: 20})
    others = [outcome._replace(cluster=f"{outcome.cluster} {outcome.recall}") for outcome in outcomes]
    assert all(length.against_shortest is None for length in compute_recall_by_length(others))
    assert (
        format_effective_context_length_sentence(RecallFindings(tuple(others)))
        == "no effective length: no question was asked at every length"
    )


def test_each_kind_has_an_effective_length_and_together_they_hold_at_one_level() -> None:
    right = answers({1024: 20, 2048: 20, 4096: 0}) + answers({1024: 20, 2048: 0, 4096: 0}, kind="chain")
    findings = RecallFindings(tuple(right))
    reached = {
        kind: found and (found.at_least, found.first_lost_length)
        for kind, found in findings.effective_length_by_question_kind.items()
    }
    assert reached == {"single": (2048, 4096), "chain": (1024, 2048)}
    assert build_effective_length_rows(findings)[1] == {
        "kind": "chain", "reaches": 1024, "less than": 2048, "1,024": 100, "2,048": 0, "4,096": 0
    }  # fmt: skip
    assert RecallFindings(tuple(answers({1024: 20, 2048: 20}))).effective_length_by_question_kind == {}
