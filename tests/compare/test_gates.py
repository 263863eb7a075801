"""--require: each kind of term, met and not met, with its reason; mistakes are said before anything is compared."""

from __future__ import annotations

import json
from typing import Any

import pytest
from compared import KEYS, rows_of
from stores import Store

from runner.compare.data import Requirement, Table
from runner.compare.gates import check, failures, margins_with, parse_requirements
from runner.core.effects import Effect, paired_accuracies, sequential_accuracies
from runner.core.errors import ConfigError
from runner.core.number_effects import Measured, paired_likelihoods, ratio_of_measurements

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
BASELINE = ("--baseline", "quantization=none")


def outcomes(text: str, *effects: Effect | str, metrics: dict[str, float] | None = None) -> list[Requirement]:
    rows = rows_of(*effects, margins={"accuracy": 0.02})
    for row in rows:
        row.run.metrics = {"answer_p95_s": 0.2} | (metrics or {})
    table = Table("gsm8k", KEYS, rows)
    check([table], parse_requirements([text], [row.run for row in rows]))
    return table.requirements


@pytest.mark.parametrize(
    ("effect", "met", "reason"),
    [
        (paired_accuracies(100, 60, 2000), True, "better"),
        (paired_accuracies(20, 20, 2000), True, "as good within 2 points"),
        (paired_accuracies(5, 25, 2000), True, "worse, but by less than 2 points"),
        (paired_accuracies(20, 220, 2000), False, "worse by more than 2 points"),
        (paired_accuracies(5, 5, 100), False, "undecided within 2 points (needs about 2,090 questions)"),
        (paired_accuracies(10, 60, 2000), False, "worse, and undecided whether by more than 2 points"),
        (sequential_accuracies([(True, True)] * 9), False, "undecided within 2 points"),
        (
            ratio_of_measurements("load_s", *[Measured([1.0], [1.0, 1.1])] * 2),
            False,
            "margin=2: not compared, it has no such measure",
        ),
        ("other questions", False, "margin=2: not compared, other questions"),
    ],
)
def test_a_margin_is_met_only_if_it_is_shown(effect: Effect | str, met: bool, reason: str) -> None:
    (outcome,) = outcomes("margin=2", effect)
    assert (outcome.requirement, outcome.job_id, outcome.met) == ("margin=2", "job-0", met)
    assert outcome.reason.startswith(f"q0: {reason}")


def test_a_margin_of_points_is_about_tables_of_accuracies_where_there_are_some() -> None:
    texts = paired_likelihoods([0.01, -0.02, 0.015] * 30, [10.0] * 90, "token")
    tables = [
        Table("gsm8k", KEYS, rows_of(paired_accuracies(20, 20, 2000), margins={"accuracy": 0.02})),
        Table("likelihood", KEYS, rows_of(texts, margins={"accuracy": 0.02})),
    ]
    terms = parse_requirements(["margin=2"], [row.run for table in tables for row in table.rows])
    check(tables, terms)
    assert [len(table.requirements) for table in tables] == [1, 0], "likelihoods have no points"
    assert failures(tables) == []
    check(tables[1:], terms)
    assert [it.met for it in tables[1].requirements] == [False], "without accuracies nothing shows the margin"
    tables[0] = Table("gsm8k", KEYS, rows_of("other questions", margins={"accuracy": 0.02}))
    check(tables, terms)
    assert len(failures(tables)) == 2, "a row that could not be compared is no reason to leave a margin out"


def test_findings_and_metrics() -> None:
    effects = paired_accuracies(60, 20, 200), paired_accuracies(20, 60, 200), "no baseline"
    text = "finding!=worse  finding = better answer_p95_s < 0.3 answer_p95_s>=0.2 answer_p95_s<=0.1"
    by_job = {(it.job_id, it.requirement): it for it in outcomes(text, *effects)}
    assert len(by_job) == 15
    met = [key for key, it in by_job.items() if it.met]
    for job, holds in (("job-0", {"finding!=worse", "finding=better"}), ("job-1", set()), ("job-2", set())):
        always = {"answer_p95_s<0.3", "answer_p95_s>=0.2"}
        assert {requirement for one, requirement in met if one == job} == holds | always
    assert by_job["job-1", "finding!=worse"].reason == "q1: worse, required finding!=worse"
    assert by_job["job-2", "finding!=worse"].reason == "q2: finding!=worse: not compared, no baseline"
    assert by_job["job-0", "answer_p95_s<=0.1"].reason == "q0: answer_p95_s 0.2, required answer_p95_s<=0.1"


def test_a_row_without_the_metric_fails_and_so_does_one_that_is_not_a_number() -> None:
    rows = rows_of(paired_accuracies(5, 5, 100), paired_accuracies(5, 5, 100))
    rows[1].run.metrics, rows[2].run.metrics = {"load_s": float("nan")}, {}
    table = Table("gsm8k", KEYS, rows)
    check([table], parse_requirements(["load_s<9"], [row.run for row in rows]))
    assert failures([table]) == [
        "requirement failed: q0: load_s –, required load_s<9",
        "requirement failed: q1: no load_s was recorded, required load_s<9",
    ]


def test_baselines_are_not_checked_and_nothing_to_check_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no row to check"):
        outcomes("answer_p95_s<1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin=x", "--require margin=x: must be a number of percentage points"),
        ("margin<2", "give margin=POINTS"),
        ("finding!=bad", "no finding 'bad'. Choices: better, larger, open, smaller, worse"),
        ("finding<worse", "compared with = or !="),
        ("answer_p95<1", "Did you mean answer_p95_s?"),
        ("answer_p95_s=1", "compared with < <= > or >="),
        ("answer_p95_s<fast", "'fast' is not a number"),
        ("answer_p95_s", "cannot read 'answer_p95_s'"),
        (" ", "is empty"),
    ],
)
def test_mistakes_name_what_was_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        outcomes(text, paired_accuracies(5, 5, 100))
    assert message in str(error.value)


def test_a_margin_of_speed_and_memory_is_about_every_ratio() -> None:
    rows = rows_of(
        ratio_of_measurements("load_s", *[Measured([1.0], [1.0, 1.2, 0.9, 1.1])] * 2), margins={"ratios": 0.05}
    )
    table = Table("memory", KEYS, rows)
    check([table], parse_requirements(["margin=5%"], []))
    assert failures([table])[0].startswith("requirement failed: q0: load_s undecided within 5 % (needs about ")


def test_a_margin_is_the_one_of_the_table() -> None:
    terms = parse_requirements(["margin=2", "margin=0.01nats margin=2"], [])
    assert [term.text for term in terms] == ["margin=2", "margin=0.01nats"]
    assert margins_with(terms, {"accuracy": 0.02}) == {"accuracy": 0.02, "log_likelihood": 0.01}
    with pytest.raises(ConfigError, match="another margin"):
        margins_with(terms, {"accuracy": 0.03})


def test_the_command_ends_with_1_and_a_line_for_each_failure(grid: Store, show: Any) -> None:
    code, out, err = show("grid", *BASELINE, "--format", "json", "--require", "margin=5 model_mib<4000")
    assert code == 1
    requirements = json.loads(out)["requirements"]
    assert len(requirements) == 8, "two for each row that is no baseline"
    failed = [it for it in requirements if not it["met"]]
    assert err.splitlines() == [f"requirement failed: {it['reason']}" for it in failed]
    assert {"nf4 task.split=test: worse by more than 5 points"} <= {it["reason"] for it in failed}
    assert show("grid", *BASELINE, "--where", "task.split=train", "--require", "margin=8")[::2] == (0, "")
    code, out, err = show("grid", "--require", "margin=5")
    assert (code, out) == (2, "")
    assert "--require margin=5: needs a baseline" in err
    assert show("grid", "--require", "model_mib<4000")[0] == 0
    assert show("grid", *BASELINE, "--require", "margin=5", "--margin", "4")[0] == 2
    code, _, err = show("grid", "--flips", "none-test", "nf4-test", "--require", "model_mib<4000")
    assert (code, "leave out --require" in err) == (2, True)
