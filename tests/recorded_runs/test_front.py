"""The Pareto front of accuracy, memory, speed and energy, against its definition and against noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import INT8, NF4, NONE, Store, marks

from runner_compare.features.front.compute import FrontData, mark_pareto_front
from runner_compare.features.front.render import (
    describe_dominance_rule,
    format_dominated_rows_sentence,
    format_machine_contention_sentences,
    format_pareto_front_sentences,
)
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.repeated_runs import list_repeated_metric_values
from runner_compare.render.parts import table_sentences

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


def row(
    job: str, correct: int, memory: float | None, speed: float | None, panel: tuple[str, ...] = ()
) -> TableRow:
    metrics = {"n": 200.0, "correct": float(correct), "model_mib": memory, "decode_tok_per_s": speed}
    measured = {name: value for name, value in metrics.items() if value is not None}
    return TableRow(Run(job, job, "gsm8k", "1", "", {}, measured), {}, panel=panel)


# of two rows of which only counts are known, 200 questions show no smaller margin
WIDE = {"accuracy": 0.2}


def front_of(
    *rows: TableRow, tolerance: float | None = 0.2, pooled: Table | None = None
) -> dict[str, str | None]:
    """Return which row dominates each, by job; None for those on the front."""
    for one in rows:
        one.on_front, one.dominated_by = None, None
    table = pooled or Table("gsm8k", [], list(rows))
    mark_pareto_front(table, tolerance=tolerance, margins=WIDE)
    assert all(one.on_front is (one.dominated_by is None) for one in rows)
    return {one.run.job_id: one.dominated_by for one in rows}


def dominates(one: TableRow, other: TableRow) -> bool:
    """The definition, with 20 % for speeds, 2 % for memory, and accuracies that are as good within
    the margin."""
    a, b = one.run.metrics, other.run.metrics
    slower, faster = (x / y > 1.2 for x, y in permutations((b["decode_tok_per_s"], a["decode_tok_per_s"])))
    larger, smaller = (x / y > 1.02 for x, y in permutations((a["model_mib"], b["model_mib"])))
    return not slower and not larger and (faster or smaller)


sizes = st.sampled_from([100.0, 101.0, 103.0, 104.5, 130.0])
speeds = st.sampled_from([50.0, 56.0, 63.0, 66.0, 80.0])


@pytest.mark.thorough
@given(st.lists(st.tuples(st.integers(100, 103), sizes, speeds), min_size=2, max_size=12))
def test_the_front_is_what_nothing_on_it_dominates(points: list[tuple[int, float, float]]) -> None:
    rows = [row(str(number), *point) for number, point in enumerate(points)]
    table = Table("gsm8k", [], rows)
    mark_pareto_front(table, tolerance=0.2, margins=WIDE)
    assert table.get_section_data(FrontData).axes == ["model_mib", "decode_tok_per_s"]
    by_id = {one.run.job_id: one for one in rows}
    for one in rows:
        assert one.on_front == (not any(dominates(other, one) and other.on_front for other in rows))
        if not one.on_front:
            assert dominates(by_id[one.dominated_by or ""], one)
            assert by_id[one.dominated_by or ""].on_front


def test_noise_dominates_nothing() -> None:
    """A swing of 1.6 % in memory or a little speed is noise, a third of the memory is not."""
    assert set(
        front_of(row("a", 180, 100.0, 50), row("b", 180, 101.6, 45), row("c", 178, 100, 52)).values()
    ) == {None}
    assert front_of(row("nf4", 180, 36.0, 46), row("none", 180, 100, 50)) == {"nf4": None, "none": "nf4"}
    assert front_of(row("nf4", 180, 36.0, 41), row("none", 180, 100, 50)) == {"nf4": None, "none": None}, (
        "slower"
    )
    assert front_of(row("nf4", 160, 36.0, 50), row("none", 180, 100, 50)) == {"nf4": None, "none": None}, (
        "worse"
    )


def test_as_many_right_answers_do_not_show_that_a_row_is_as_accurate() -> None:
    """Of 200 questions that cannot be paired: 6 points either way are possible, so 2 points are not
    excluded."""
    rows = row("nf4", 180, 36.0, 50), row("none", 180, 100, 50)
    mark_pareto_front(Table("gsm8k", [], [*rows]), tolerance=0.2)
    assert [one.on_front for one in rows] == [True, True]
    assert front_of(*rows) == {"nf4": None, "none": "nf4"}, "20 points are excluded"


def test_the_tolerance_is_the_users() -> None:
    rows = row("quick", 180, 100, 55), row("slow", 180, 100, 50)
    assert front_of(*rows) == {"quick": None, "slow": None}
    assert front_of(*rows, tolerance=0.05) == {"quick": None, "slow": "quick"}
    assert front_of(*rows, tolerance=None) == {"quick": None, "slow": None}, "one run each: nothing is known"


def test_speeds_of_one_run_each_are_left_out_and_the_sentence_says_so() -> None:
    """No row is dominated by a speed of one run, none is protected by it, and the ratio is shown as
    not tested."""
    rows = [row("nf4", 180, 36.0, 25), row("none", 180, 100, 50), row("quick", 180, 36.0, 99)]
    table = Table("gsm8k", [], rows)
    assert front_of(*rows, tolerance=None, pooled=table) == {"nf4": None, "none": "nf4", "quick": None}
    assert table.get_section_data(FrontData).axes == ["model_mib"]
    (sentence,) = format_pareto_front_sentences(table)
    assert sentence.startswith("The Pareto front ignores speed: fewer than 3 runs of a job ")
    assert "no run is called faster or slower" in sentence
    assert (
        "run each job at least 4 times on an idle machine with workers=1 hydra.launcher.fresh=true"
        in sentence
    )
    assert sentence.endswith("--tolerance PERCENT")
    assert (
        format_dominated_rows_sentence(table)
        == "Dominated beyond noise (speed not counted): none by nf4 (memory ×0.36, speed ×0.50, not tested)."
    )
    assert "speed" not in describe_dominance_rule(table)


def test_an_accuracy_that_is_worse_for_sure_is_dominated() -> None:
    assert front_of(row("nf4", 180, 36, 50), row("fp4", 150, 36, 54)) == {"nf4": None, "fp4": "nf4"}
    assert front_of(row("nf4", 180, 36, 50), row("fp4", 172, 36, 54)) == {"nf4": None, "fp4": None}
    assert front_of(row("nf4", 180, 36, 50), row("fp4", 150, 36, 61)) == {"nf4": None, "fp4": None}, (
        "but quicker"
    )


def test_a_dominated_row_dominates_no_other() -> None:
    """Each is 15 % slower and smaller than the one before: the last is 30 % slower than the first,
    which stays."""
    rows = row("a", 180, 100, 66), row("b", 180, 80, 57), row("c", 180, 60, 50)
    assert front_of(*rows) == {"a": None, "b": "c", "c": None}


def repeated(job: str, *speeds: float, memory: float = 100) -> TableRow:
    rows = [row(job, 180, memory, speed) for speed in speeds]
    rows[0].run.earlier = [one.run for one in rows[1:]]
    return rows[0]


def test_the_spread_of_runs_is_the_noise() -> None:
    steady = repeated("quick", 55, 55.3, 54.8, 55.1), repeated("slow", 50, 50.2, 49.7, 50)
    assert front_of(*steady, tolerance=None) == {"quick": None, "slow": "quick"}, (
        "10 %, and half a percent of spread"
    )
    assert steady[0].standing["decode_tok_per_s"].runs == 4
    wild = repeated("quick", 65, 50, 81, 55), repeated("slow", 50, 62, 39, 44)
    assert front_of(*wild, tolerance=None) == {"quick": None, "slow": None}, "30 %, and as much of spread"
    elsewhere = repeated("quick", 55, 55.3, 54.8, 55.1), repeated("slow", 50, 50.2, 49.7, 50)
    for one in elsewhere:
        for run in one.run.earlier[1:]:
            run.facts["measured"] = "beside other work that used 1.0 of 2 cores"
    assert front_of(*elsewhere, tolerance=None) == {"quick": None, "slow": None}, (
        "a run that was measured beside others is not a repeat"
    )


def test_a_cheap_row_must_be_shown_to_be_as_fast() -> None:
    steady, wild = STEADY, (1.0, 1.2, 0.84, 1.1, 0.95)
    for name, noise, factor, falls in (
        ("as fast", steady, 1.0, "nf4"),
        ("3 % slower for sure", steady, 0.97, None),
        ("half the speed", steady, 0.5, None),
        ("perhaps much slower", wild, 1.0, None),
    ):
        cheap = repeated("nf4", *(factor * 50 * one for one in noise), memory=36)
        dear = repeated("none", *(50 * one for one in noise[::-1]))
        assert front_of(cheap, dear, tolerance=None) == {"nf4": None, "none": falls}, name


STEADY = (1.0, 1.004, 0.997, 1.001, 0.999)


def counted(job: str, joules: float, noise: tuple[float, ...] = STEADY) -> TableRow:
    """A job of several runs that differ in nothing but the energy of a question."""
    found = repeated(job, *(50 * spread for spread in STEADY))
    for run, spread in zip((found.run, *found.run.earlier), noise, strict=False):
        run.metrics["joules_per_question"] = joules * spread
    return found


def test_energy_is_an_axis() -> None:
    """Settings that are equal but for the joules of a question; the control: of equal ones none is
    dominated."""
    for joules, falls in ((20.0, "thrifty"), (10.0, None), (10.5, None)):
        rows = counted("thrifty", 10.0), counted("other", joules, STEADY[::-1])
        table = Table("gsm8k", [], [*rows])
        found = front_of(*rows, tolerance=None, pooled=table)
        if joules != 10.5:  # 5 % are within the margin, and beyond noise
            assert found == {"thrifty": None, "other": falls}, joules
        assert table.get_section_data(FrontData).axes == [
            "model_mib",
            "decode_tok_per_s",
            "joules_per_question",
        ]
    assert "as fast within 10 % and as low in energy within 10 %" in describe_dominance_rule(table)
    wild = (1.0, 1.6, 0.6, 1.3, 0.8)
    assert front_of(counted("thrifty", 10, wild), counted("other", 12, wild[::-1]), tolerance=None) == {
        "thrifty": None,
        "other": None,
    }


def test_a_row_that_takes_more_energy_dominates_nothing() -> None:
    for joules, falls in ((10.0, "small"), (20.0, None)):
        small, large = counted("small", joules), counted("large", 10.0, STEADY[::-1])
        for run in (small.run, *small.run.earlier):
            run.metrics["model_mib"] = 36.0
        assert front_of(small, large, tolerance=None) == {"small": None, "large": falls}


def test_energy_is_left_out_where_a_row_lacks_it_or_has_too_few_runs() -> None:
    rows = counted("a", 10), repeated("b", 50, 50.2, 49.7, 50)
    table = Table("gsm8k", [], [*rows])
    front_of(*rows, tolerance=None, pooled=table)
    assert table.get_section_data(FrontData).axes == ["model_mib", "decode_tok_per_s"]
    assert format_pareto_front_sentences(table) == [
        "The Pareto front ignores energy: b does not record joules_per_question, the energy per question"
    ]
    single = [row("a", 180, 36, 50), row("b", 180, 100, 50)]
    for one, joules in zip(single, (10.0, 5.0), strict=True):
        one.run.metrics["joules_per_question"] = joules
    table = Table("gsm8k", [], single)
    assert front_of(*single, tolerance=None, pooled=table) == {"a": None, "b": "a"}
    (sentence,) = format_pareto_front_sentences(table)
    assert sentence.startswith("The Pareto front ignores speed and energy: fewer than 3 runs of a job ")
    assert "no run is called faster or slower or thriftier or more wasteful. " in sentence
    assert "To include speed and energy, run each job" in sentence
    assert format_dominated_rows_sentence(table) == (
        "Dominated beyond noise (speed and energy not counted): "
        "b by a (memory ×0.36, speed ×1.00, not tested, energy ×2.00, not tested)."
    )
    assert front_of(*single, tolerance=0.2) == {"a": None, "b": None}, "the noise is given"


def test_a_counter_that_counted_nothing_is_no_axis() -> None:
    rows = [row("a", 180, 36, 50), row("b", 180, 100, 50)]
    for one in rows:
        one.run.metrics["joules_per_question"] = 0.0
    table = Table("gsm8k", [], rows)
    front_of(*rows, pooled=table)
    assert "joules_per_question" not in table.get_section_data(FrontData).axes


def test_pooled_jobs_have_the_runs_of_each_round() -> None:
    first, second = (repeated(job, *speeds).run for job, speeds in (("a", (50, 40, 45)), ("b", (50, 40))))
    for run in (first, second, *first.earlier, *second.earlier):
        run.metrics["new_tokens"] = 100.0
    pooled = replace(first, parts=[first, second])
    assert list_repeated_metric_values(pooled, "decode_tok_per_s") == [50, 40]


def test_other_questions_are_another_front() -> None:
    easy, hard = ("task.split=test",), ("task.split=hard5",)
    rows = [
        row("a", 190, 100, 60, easy),
        row("b", 180, 200, 40, easy),
        row("c", 30, 100, 50, hard),
        row("d", 29, 99, 50, hard),
    ]
    assert front_of(*rows) == {"a": None, "b": "a", "c": None, "d": None}


def test_an_axis_needs_the_same_metric_in_all_rows() -> None:
    table = Table("gsm8k", [], [row("a", 90, 100, None), row("b", 88, 200, 40)])
    mark_pareto_front(table, margins=WIDE)
    assert table.get_section_data(FrontData).axes == ["model_mib"]
    assert [one.on_front for one in table.rows] == [True, False]
    table = Table("gsm8k", [], [row("a", 9, None, 60), row("b", 8, 200, 40)])
    for one in table.rows:
        one.run.metrics["peak_rss_mib"] = 900
    mark_pareto_front(table, tolerance=0.2)
    assert table.get_section_data(FrontData).axes == ["decode_tok_per_s"]
    assert format_pareto_front_sentences(table) == [
        "The Pareto front ignores memory: a does not record model_mib, the memory used by the model"
    ]
    table = Table("gsm8k", [], [row("a", 9, None, None), row("b", 8, 200, 40)])
    mark_pareto_front(table)
    assert (table.get_section_data(FrontData).axes, format_pareto_front_sentences(table)) == ([], [])
    assert [one.on_front for one in table.rows] == [None, None]


@pytest.mark.thorough
def test_accuracies_are_compared_question_by_question(store: Store, rows: Any, show: Any) -> None:
    """10 of 200 lost and none won: for Fisher's test too few, for McNemar's enough."""
    for name, config, right in (("none", NONE, 186), ("nf4", NF4, 176)):
        store.job("paired", name, config, marks(right, 200))
    assert {name: one["dominated_by"] for name, one in rows("paired").items()} == {
        "none": None,
        "nf4": "none",
    }
    _, out, _ = show("paired", "--explain")
    assert (
        "Dominated beyond noise (speed not counted): nf4 by none (accuracy +5.0 points, speed ×1.00, not tested)."
        in out
    )
    assert "as accurate within a margin of 2 points" in out
    assert "Noise is differences up to 2 % in memory (model_mib). In accuracy, noise is" in out
    assert (
        "differences up to 20 % (--tolerance) in speed" in show("paired", "--tolerance", "20", "--explain")[1]
    )
    out = show("paired", "--columns", "all")[1]
    assert "Pareto" in out
    assert "Noise is" not in out


@pytest.mark.thorough
def test_a_row_is_as_accurate_if_the_test_excludes_a_loss(store: Store, rows: Any) -> None:
    """One lost answer of 1,000 is little; one of 200 may mean 2 points; 20 of 400 are a loss of
    5."""
    for n, lost, falls in ((1000, 1, "nf4"), (200, 1, None), (20, 0, None), (400, 20, None)):
        for name, config, size in (("none", NONE, 100.0), ("nf4", NF4, 36.0)):
            right = n - n // 10 - lost * (name == "nf4")
            store.job(f"close{n}", name, config, marks(right, n), metrics={"model_mib": size})
        assert rows(f"close{n}")["none"]["dominated_by"] == falls, n
    assert (
        rows("close200", "--baseline", "quantization=none", "--margin", "5")["none"]["dominated_by"] == "nf4"
    )


@pytest.mark.thorough
def test_a_job_that_ran_several_times_has_repeats(store: Store, rows: Any, show: Any) -> None:
    for speed in (40.0, 40.4, 39.6, 40.2):
        store.job("again", "none", NONE, marks(900, 1000), metrics={"decode_tok_per_s": speed})
        store.job("again", "nf4", NF4, marks(900, 1000), metrics={"decode_tok_per_s": 1.1 * speed})
    row_by_job = rows("again")
    assert row_by_job["none"]["dominated_by"] == "nf4"
    assert row_by_job["none"]["standing"]["decode_tok_per_s"]["runs"] == 4
    assert row_by_job["none"]["metrics"]["decode_tok_per_s"] == 40.2, "the newest"
    out = show("again", "--explain")[1]
    assert "differences without significance in Student's t-test over 4 runs per job in speed" in out
    assert "as accurate within a margin of 2 points and as fast within 10 % (--margin)" in out
    assert show("again", "--tolerance", "-1")[0] == 2
    assert (
        "as fast within 3 %"
        in show("again", "--baseline", "quantization=none", "--margin", "3%", "--explain")[1]
    )


@pytest.mark.thorough
def test_dominated_rows_are_marked_everywhere(store: Store, rows: Any, show: Any) -> None:
    for name, config, right, size, speed in (
        ("none", NONE, 90, 900.0, 50.0),
        ("int8", INT8, 88, 950.0, 40.0),
        ("nf4", NF4, 80, 600.0, 45.0),
    ):
        metrics = {"model_mib": size, "decode_tok_per_s": speed}
        store.job("front", name, config, marks(right, 100), metrics=metrics)
    given = "--tolerance", "20", "--baseline", "quantization=none", "--margin", "15"
    row_by_job = rows("front", *given)
    assert {name: one["on_front"] for name, one in row_by_job.items()} == {
        "none": True,
        "int8": False,
        "nf4": True,
    }
    assert row_by_job["int8"]["dominated_by"] == "none"
    _, out, _ = show("front", *given)
    line = next(line for line in out.splitlines() if line.startswith("int8"))
    assert line.index("no loss above 15 points") < line.index(" dominated ") < line.index(" 950 ")
    _, out, _ = show("front", *given, "--format", "csv")
    assert next(line for line in out.splitlines() if line.startswith("gsm8k,int8")).split(",")[-5:-2] == [
        "False",
        "none",
        "model_mib decode_tok_per_s",
    ]


def test_a_row_measured_beside_others_or_elsewhere_dominates_nothing() -> None:
    rows = [row("a", 90, 100, 50), row("b", 88, 200, 40), row("c", 90, 50, 90), row("d", 90, 60, 80)]
    for one in rows:
        one.run.facts = {"measured": "alone", "machine": "this one"}
    rows[2].run.facts["measured"] = "beside other work that used 1.7 of 2 cores"
    rows[3].run.facts["machine"] = "a quicker one"
    table = Table("gsm8k", [], rows)
    mark_pareto_front(table, tolerance=0.2, margins=WIDE)
    assert [one.on_front for one in rows] == [True, False, None, None]
    assert rows[1].dominated_by == "a"
    dominance, left_out = table_sentences(table)
    assert dominance == "Dominated beyond noise: b by a (memory ×0.50, speed ×1.25)."
    assert left_out.startswith(
        "The Pareto front includes 2 of 4 runs, which were measured in separate processes "
    )
    assert (
        "Excluded runs: c (measured beside other work that used 1.7 of 2 cores), d (measured on another "
        in left_out
    )
    assert left_out.endswith("workers=1 hydra.launcher.fresh=true rerun=all")
    (short,) = format_machine_contention_sentences(table)
    assert short.startswith(
        "Speed and memory are not comparable: 2 of 4 jobs ran beside other programs or on another machine. "
    )
    assert short.endswith("workers=1 hydra.launcher.fresh=true rerun=all")


def test_a_grid_beside_others_has_no_front_and_says_how_to_get_one(store: Store, show: Any) -> None:
    for name, config in (("none", NONE), ("int8", INT8), ("nf4", NF4)):
        tags = {"fact.measured": "beside other work that used 1.0 of 2 cores", "fact.machine": "A"}
        store.job("busy", name, config, marks(90, 100), tags=tags)
    _, out, _ = show("busy", "--baseline", "quantization=none")
    assert "dominated" not in out
    assert "• There is no Pareto front, because only 0 of 3 runs were measured in separate processes " in out
    assert "of one type, and it needs 2. Excluded runs:" in out
    assert "run the jobs again on an idle machine with workers=1 hydra.launcher.fresh=true rerun=all" in out


def test_the_baselines_machine_decides(store: Store, show: Any) -> None:
    for name, config, machine in (("none", NONE, "A"), ("int8", INT8, "B"), ("nf4", NF4, "B")):
        tags = {"fact.measured": "alone", "fact.machine": machine}
        store.job("machines", name, config, marks(90, 100), tags=tags)
    _, out, _ = show("machines", "--baseline", "quantization=none")
    assert "Excluded runs: int8 (measured on another machine: B) and 1 more. To include these runs, " in out
