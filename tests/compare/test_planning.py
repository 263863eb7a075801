"""--plan-questions: how many questions each row needs, how long they take here, and what is a
mistake."""

from __future__ import annotations

import pytest
from compared import KEYS, rows_of
from raising import raises

from runner_base.errors import Code, ConfigError
from runner_base.notes import note
from runner_compare.features.planning.compute import (
    QuestionPlan,
    TablePlans,
    parse_plan_target,
    plan_questions,
)
from runner_compare.features.planning.render import format_duration, format_plan_title
from runner_compare.model.data import Table
from runner_compare.statistics import FisherTest, McNemarTest, SequentialTest, SignFlipTest, Test
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.planning import (
    compute_samples_to_detect_shift,
    estimate_disagreement_rate,
    plan_questions_to_detect,
)
from runner_compare.statistics.ratios import kurtosis, skewness

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
# 200 first ones
SPEEDS = {"prefill_tok_per_s": 100.0, "decode_tok_per_s": 10.0, "prompt_tokens": 4000.0, "new_tokens": 800.0}


def planned(aim: str, *effects: Test) -> Table:
    table = Table("gsm8k", KEYS, rows_of(*effects))
    for row in table.rows:
        row.run.metrics = {"n": 200.0, **SPEEDS}
    plan_questions([table], parse_plan_target([aim]))
    return table


def plans_of(table: Table) -> list[QuestionPlan]:
    """The plans of a table's rows, in their order."""
    return list(table.get_section_data(TablePlans).of_rows.values())


def test_a_row_needs_what_its_own_disagreement_asks_for() -> None:
    expected = estimate_disagreement_rate(20, 200)
    for aim, needed in (
        (
            "margin=2 power=0.9",
            compute_non_inferiority_sample_size(0.02, expected, 0.05 / 2, 0.9, (10, 10, 200)),
        ),
        ("detect=3", plan_questions_to_detect(expected, 0.03, 0.05 / 2)),
    ):
        table = planned(aim, McNemarTest(10, 10, 200), McNemarTest(30, 30, 200))
        few, many = plans_of(table)
        assert needed is not None
        assert (few.asked, few.disagreement, few.needed, few.further) == (200, 0.1, needed, needed - 200)
        assert few.needed_low is not None
        assert few.needed_high is not None
        assert few.needed_low < needed < few.needed_high
        assert few.further_s == pytest.approx((needed - 200) * (40 + 60) / 200)
        assert many.needed is not None
        assert many.needed > needed
    title = format_plan_title(table)
    assert "to detect a difference of 3 points with 80 % power, " in title
    assert title.endswith("at the observed rate of disagreement")


def test_likelihoods_count_samples_and_what_cannot_be_planned_says_why() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    (plan,) = plans_of(planned("margin=0.01nats", likelihood))
    texts = [0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7
    bend, tails = skewness(*texts) / 21**0.5, kurtosis(*texts)
    error = likelihood.effect.counts["error"]
    assert plan.needed == compute_samples_to_detect_shift(
        error, 21, 0.01, scaled_skewness=bend, kurtosis=tails, is_upward=True
    )
    assert plan.needed is not None
    assert plan.needed_low is not None
    assert plan.needed_high is not None
    assert plan.needed_low < plan.needed < plan.needed_high
    table = planned("margin=2", SequentialTest([(True, True)] * 9), FisherTest(9, 10, 8, 10))
    assert [plan.reason for plan in plans_of(table)] == [note("plan_watched"), note("plan_unpaired")]
    with raises(ConfigError, "empty", "--plan-questions"):
        planned("margin=0.01nats", McNemarTest(10, 10, 200))


def test_a_run_without_measured_speeds_has_no_time() -> None:
    table = Table("gsm8k", KEYS, rows_of(McNemarTest(10, 10, 200)))
    plan_questions([table], parse_plan_target(["margin=2"]))
    assert [plan.further_s for plan in plans_of(table)] == [None]
    assert [format_duration(it) for it in (None, 0, 0.2, 12.4, 200, 9000)] == [
        "–",
        "0 s",
        "<1 s",
        "12 s",
        "3.3 min",
        "2.5 h",
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["power=0.8"], "missing"),
        (["margin=2", "detect=3"], "conflict"),
        (["margin=2", "power=80"], "bad_value"),
        (["margin=2", "power=x"], "bad_value"),
        (["margin=2", "power=0.8", "power=0.9"], "conflict"),
        (["margin=no"], "bad_value"),
        (["detect=no"], "bad_value"),
        (["margins=2"], "unknown_choice"),
        (["2"], "unknown_choice"),
    ],
)
def test_mistakes_name_what_was_wrong(words: list[str], code: Code) -> None:
    with raises(ConfigError, code, "--plan-questions"):
        parse_plan_target(words)
