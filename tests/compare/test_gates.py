"""--require: each kind of term, met and not met, with its reason; mistakes are said before anything
is compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compared import KEYS, rows_of
from raising import raises

from runner_base.errors import Code, ConfigError
from runner_compare.features.gates.section import (
    SECTION,
    Requirement,
    Requirements,
    check_requirements_on_runs,
    merge_margins_with_requirements,
    parse_requirements,
    unmet_requirement_lines,
)
from runner_compare.model.data import Table
from runner_compare.render.effects import format_effect
from runner_compare.render.margins import UNDECIDED
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics import (
    McNemarTest,
    Measurements,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    Test,
    decide_comparisons_with_holm,
)

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
BASELINE = ("--baseline", "quantization=none")


def outcomes(text: str, *effects: Test | str, metrics: dict[str, float] | None = None) -> list[Requirement]:
    rows = rows_of(*effects, margins={"accuracy": 0.02})
    for row in rows:
        row.run.metrics = {"weight_mib": 0.2} | (metrics or {})
    table = Table("gsm8k", KEYS, rows)
    check_requirements_on_runs([table], parse_requirements([text], [row.run for row in rows]))
    return table.get_section_data(Requirements).of_rows


@pytest.mark.parametrize(
    ("effect", "met", "reason"),
    [
        (McNemarTest(100, 60, 2000), True, "better"),
        (McNemarTest(20, 20, 2000), True, "no loss above 2 points"),
        (McNemarTest(5, 25, 2000), True, "worse, but by less than 2 points"),
        (McNemarTest(20, 220, 2000), False, "worse by more than 2 points"),
        (
            McNemarTest(5, 5, 100),
            False,
            f"{UNDECIDED} within 2 points (needs about 2,090 (1,110 to 3,470) questions in all)",
        ),
        (McNemarTest(10, 60, 2000), False, f"worse, but it is {UNDECIDED} whether the loss exceeds 2 points"),
        (SequentialTest([(True, True)] * 9), False, f"{UNDECIDED} within 2 points"),
        (
            StudentTTest("load_s", *[Measurements([1.0], [1.0, 1.1])] * 2),
            False,
            "margin=2: not compared, it has no such measure",
        ),
        ("other questions", False, "margin=2: not compared, other questions"),
    ],
)
def test_a_margin_is_met_only_if_it_is_shown(effect: Test | str, met: bool, reason: str) -> None:
    (outcome,) = outcomes("margin=2", effect)
    assert (outcome.requirement, outcome.job_id, outcome.met) == ("margin=2", "job-0", met)
    assert outcome.reason.startswith(f"q0: {reason}")


def test_a_margin_of_points_is_about_tables_of_accuracies_where_there_are_some() -> None:
    texts = SignFlipTest([0.01, -0.02, 0.015] * 30, [10.0] * 90, "token")
    tables = [
        Table("gsm8k", KEYS, rows_of(McNemarTest(20, 20, 2000), margins={"accuracy": 0.02})),
        Table("likelihood", KEYS, rows_of(texts, margins={"accuracy": 0.02})),
    ]
    terms = parse_requirements(["margin=2"], [row.run for table in tables for row in table.rows])
    check_requirements_on_runs(tables, terms)
    assert [len(table.get_section_data(Requirements).of_rows) for table in tables] == [1, 0], (
        "likelihoods have no points"
    )
    assert unmet_requirement_lines(tables) == []
    check_requirements_on_runs(tables[1:], terms)
    assert [it.met for it in tables[1].get_section_data(Requirements).of_rows] == [False], (
        "without accuracies nothing shows the margin"
    )
    tables[0] = Table("gsm8k", KEYS, rows_of("other questions", margins={"accuracy": 0.02}))
    check_requirements_on_runs(tables, terms)
    assert len(unmet_requirement_lines(tables)) == 2, (
        "a row that could not be compared is no reason to leave a margin out"
    )


def test_findings_and_metrics() -> None:
    effects = McNemarTest(60, 20, 200), McNemarTest(20, 60, 200), "no baseline"
    text = "finding!=worse  finding = better weight_mib < 0.3 weight_mib>=0.2 weight_mib<=0.1"
    by_job = {(it.job_id, it.requirement): it for it in outcomes(text, *effects)}
    assert len(by_job) == 15
    met = [key for key, it in by_job.items() if it.met]
    for job, holds in (("job-0", {"finding!=worse", "finding=better"}), ("job-1", set()), ("job-2", set())):
        always = {"weight_mib<0.3", "weight_mib>=0.2"}
        assert {requirement for one, requirement in met if one == job} == holds | always
    assert by_job["job-1", "finding!=worse"].reason == "q1: worse, required finding!=worse"
    assert by_job["job-2", "finding!=worse"].reason == "q2: finding!=worse: not compared, no baseline"
    assert by_job["job-0", "weight_mib<=0.1"].reason == "q0: weight_mib 0.2, required weight_mib<=0.1"


def met(text: str, metrics: dict[str, float]) -> tuple[bool, str]:
    """Return what is decided about a row with these metrics."""
    (outcome,) = outcomes(text, McNemarTest(5, 5, 100), metrics=metrics)
    return outcome.met, outcome.reason.removeprefix("q0: ")


KL = {
    "kl_p99_nats": 0.018,
    "kl_p99_nats_low": 0.004,
    "kl_p99_nats_high": 0.036,
    "kl_p999_nats": 0.1,
    "n": 200.0,
}
CHAT = {"kl_p99_nats/chat": 0.01, "kl_p99_nats_low/chat": 0.009, "kl_p99_nats_high/chat": 0.011}


NO_INTERVAL = "not met, because the metric has no interval"
FEW = "only 200 documents, but an interval needs 3,688"


@pytest.mark.parametrize(
    ("text", "is_met", "reason"),
    [
        ("kl_p99<0.02nats", False, f"kl_p99_nats 0.018 [0.004, 0.036], {UNDECIDED}, required kl_p99<0.02nats"),
        ("kl_p99<0.04nats", True, "kl_p99_nats 0.018 [0.004, 0.036]"),
        ("kl_p99>0.04nats", False, "kl_p99_nats 0.018 [0.004, 0.036], required kl_p99>0.04nats"),
        ("kl_p99>0.003nats", True, "kl_p99_nats 0.018 [0.004, 0.036]"),
        ("kl_p99>=0.01nats", False, f"kl_p99_nats 0.018 [0.004, 0.036], {UNDECIDED}, required kl_p99>=0.01nats"),
        (
            "kl_p999<0.5nats",
            False,
            f"kl_p999_nats 0.1, {NO_INTERVAL} ({FEW}), required kl_p999<0.5nats",
        ),
        ("kl_p999_nats<0.05", False, f"kl_p999_nats 0.1, no interval ({FEW}), required kl_p999_nats<0.05"),
        ("kl_p99/chat<0.012nats", True, "kl_p99_nats/chat 0.01 [0.009, 0.011]"),
        ("kl_p99_nats_high<0.04", True, "kl_p99_nats_high 0.036"),
        ("new_tokens_per_question<90", False, f"new_tokens_per_question 80, {NO_INTERVAL}, required new_tokens_per_question<90"),
        ("no_answer<=3", True, "no_answer 3 in this run"),
    ],
)  # fmt: skip
def test_a_metric_passes_by_the_end_of_its_interval(text: str, is_met: bool, reason: str) -> None:
    assert met(text, KL | CHAT | {"new_tokens_per_question": 80.0, "no_answer": 3.0}) == (is_met, reason)


def test_a_kept_part_of_the_distributions_bounds_a_percentile_from_both_sides() -> None:
    bounded = KL | {"kl_p99_nats_at_most": 0.03}
    assert met("kl_p99<0.04nats", bounded)[0]
    assert not met("kl_p99<0.035nats", bounded)[0]


def test_an_accuracy_passes_by_its_interval_and_by_what_was_cut_off() -> None:
    score = {"n": 200.0, "correct": 180.0, "accuracy": 0.9}
    assert met("accuracy>=0.84", score) == (True, "accuracy 0.9 [0.85, 0.938]")
    assert met("accuracy>=0.88", score) == (
        False,
        f"accuracy 0.9 [0.85, 0.938], {UNDECIDED}, required accuracy>=0.88",
    )
    assert met("accuracy>0.94", score)[1] == "accuracy 0.9 [0.85, 0.938], required accuracy>0.94"
    at_worst = score | {"cut_off": 10.0}
    assert met("accuracy>=0.84", at_worst)[0]
    assert not met("accuracy<0.95", at_worst)[0]
    assert "[0.85, 0.976] with cut-off answers wrong … right" in met("accuracy<0.95", at_worst)[1]


def test_a_value_that_rounding_would_put_on_its_limit_is_shown_on_its_side() -> None:
    assert met("weight_mib<2.13", {"weight_mib": 2.1268}) == (True, "weight_mib 2.127")
    assert met("weight_mib<2.13", {"weight_mib": 2.1319}) == (
        False,
        "weight_mib 2.132, required weight_mib<2.13",
    )
    assert met("weight_mib<2.2", {"weight_mib": 2.1268})[1] == "weight_mib 2.13", "the control"


def test_an_interval_that_rounding_would_put_on_the_margin_is_shown_on_its_side() -> None:
    found = (
        decision
        for n in range(500, 900)
        for decision in decide_comparisons_with_holm([McNemarTest(20, 20, n)], {"accuracy": 0.02})
        if format_percentage_points(decision.low) == "−2.0" and decision.low != -0.02
    )
    decision = next(found)
    low = float(format_effect(decision).partition("[")[2].partition(",")[0].replace("−", "-"))
    assert low != -2
    assert (low > -2) == (decision.low > -0.02)
    assert "[−2.0," in format_effect(replace(decision, margin=None)), "the control: without a margin"


def test_a_speed_passes_over_six_runs_of_its_job() -> None:
    rows = rows_of(McNemarTest(5, 5, 100))
    run = rows[1].run
    run.metrics = {"decode_tok_per_s": 110.0}

    def decided(text: str) -> Requirement:
        table = Table("gsm8k", KEYS, rows)
        check_requirements_on_runs([table], parse_requirements([text], [run]))
        (outcome,) = table.get_section_data(Requirements).of_rows
        return outcome

    one = decided("decode_tok_per_s>=100")
    assert not one.met
    assert f"110, {NO_INTERVAL} (1 run; an interval needs 6: workers=1 " in one.reason
    run.earlier = [
        replace(run, metrics={"decode_tok_per_s": speed}) for speed in (109.0, 111.0, 110.0, 112.0)
    ]
    assert "(5 runs; an interval needs 6" in decided("decode_tok_per_s>=100").reason
    run.earlier.append(replace(run, metrics={"decode_tok_per_s": 108.0}))
    six = decided("decode_tok_per_s>=100")
    assert (six.met, six.reason) == (True, "q0: decode_tok_per_s 110 [108, 112]")
    assert decided("decode_tok_per_s>=108").met
    assert not decided("decode_tok_per_s>=109").met, "the slowest of six"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("kl_p99<0.01", "kl_p99<0.01nats"),
        ("kl_p99<0.01bits", "kl_p99<0.01nats"),
        ("kl_p99/chat<0.01", "kl_p99/chat<0.01nats"),
        ("decode>100", "decode_tok_per_s>100"),
    ],
)
def test_a_missing_unit_is_named(text: str, meant: str) -> None:
    with raises(ConfigError, "bad_value", "--require") as refused:
        met(text, KL | CHAT | {"decode_tok_per_s": 100.0})
    assert refused.value.value == text
    assert refused.value.reason.endswith(meant)


def test_a_row_without_the_metric_fails_and_so_does_one_that_is_not_a_number() -> None:
    rows = rows_of(McNemarTest(5, 5, 100), McNemarTest(5, 5, 100))
    rows[1].run.metrics, rows[2].run.metrics = {"load_s": float("nan")}, {}
    table = Table("gsm8k", KEYS, rows)
    check_requirements_on_runs([table], parse_requirements(["load_s<9"], [row.run for row in rows]))
    assert unmet_requirement_lines([table]) == [
        "requirement failed: q0: load_s –, no interval (1 run; an interval needs 6: workers=1 hydra.launcher.fresh=true "
        "rerun=all), required load_s<9",
        "requirement failed: q1: no load_s was recorded, required load_s<9",
    ]


def test_baselines_are_not_checked_and_nothing_to_check_is_a_mistake() -> None:
    with raises(ConfigError, "empty", "--require"):
        outcomes("weight_mib<1")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("margin=x", "bad_value"),
        ("margin<2", "bad_value"),
        ("finding!=bad", "unknown_choice"),
        ("finding<worse", "bad_value"),
        ("weigth_mib<1", "unknown_choice"),
        ("weight_mib=1", "bad_value"),
        ("weight_mib<fast", "bad_value"),
        ("weight_mib", "bad_value"),
        (" ", "empty"),
    ],
)
def test_mistakes_name_what_was_wrong(text: str, code: Code) -> None:
    with raises(ConfigError, code, "--require"):
        outcomes(text, McNemarTest(5, 5, 100))


def test_a_margin_of_speed_and_memory_is_about_every_ratio() -> None:
    rows = rows_of(
        StudentTTest("load_s", *[Measurements([1.0], [1.0, 1.2, 0.9, 1.1])] * 2), margins={"ratios": 0.05}
    )
    table = Table("memory", KEYS, rows)
    check_requirements_on_runs([table], parse_requirements(["margin=5%"], []))
    assert unmet_requirement_lines([table])[0].startswith(
        f"requirement failed: q0: load_s: {UNDECIDED} within 5 % (needs about "
    )


def test_a_margin_is_the_one_of_the_table() -> None:
    terms = parse_requirements(["margin=2", "margin=0.01nats margin=2"], [])
    assert [term.text for term in terms] == ["margin=2", "margin=0.01nats"]
    assert merge_margins_with_requirements(terms, {"accuracy": 0.02}) == {
        "accuracy": 0.02,
        "log_likelihood": 0.01,
    }
    with raises(ConfigError, "conflict", "--require"):
        merge_margins_with_requirements(terms, {"accuracy": 0.03})


def test_a_count_of_right_answers_is_refused_with_the_accuracy_that_it_stands_for() -> None:
    """161 of 200 pass `correct>=160`, while the accuracy may well be below 0.8."""
    counts = {"n": 200.0, "correct": 161.0, "wrong": 36.0, "no_answer": 3.0, "accuracy": 0.805}
    (met,) = outcomes("accuracy>=0.8", "other questions", metrics=counts)
    assert not met.met
    for text, instead in (("correct>=160", "accuracy>=0.8"), ("wrong<=40", "accuracy>=0.8")):
        with raises(ConfigError, "unsupported", "--require") as refused:
            outcomes(text, "other questions", metrics=counts)
        assert refused.value.reason.endswith(instead)


def test_other_counts_say_that_they_describe_one_run() -> None:
    rows = rows_of("other questions")
    rows[1].run.metrics = {"no_answer": 3.0, "weight_mib": 0.2}
    table = Table("gsm8k", KEYS, rows)
    check_requirements_on_runs(
        [table], parse_requirements(["no_answer<=3 weight_mib<1"], [row.run for row in rows])
    )
    assert [(one.met, one.reason) for one in table.get_section_data(Requirements).of_rows] == [
        (True, "q0: no_answer 3 in this run"),
        (True, "q0: weight_mib 0.2"),
    ]
    (sentence,) = SECTION.sentences(table)
    assert sentence.startswith("no_answer<=3 ")
    assert "in these runs only" in sentence
