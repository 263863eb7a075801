"""The Pareto front of accuracy, memory and speed, against its definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import INT8, NF4, NONE, Store, marks

from runner.compare.data import Row, Run, Table
from runner.compare.table import mark_front

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


def row(job: str, correct: int, rss: float | None, speed: float | None, panel: tuple[str, ...] = ()) -> Row:
    metrics = {"n": 10.0, "correct": float(correct), "peak_rss_mib": rss, "decode_tok_per_s": speed}
    measured = {name: value for name, value in metrics.items() if value is not None}
    return Row(Run(job, job, "gsm8k", "1", "", {}, measured), {}, panel=panel)


def dominates(one: Row, other: Row) -> bool:
    a, b = one.run.metrics, other.run.metrics
    pairs = [(a["correct"], b["correct"]), (-a["peak_rss_mib"], -b["peak_rss_mib"])]
    pairs += [(a["decode_tok_per_s"], b["decode_tok_per_s"])]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int, int]]) -> None:
    rows = [row(str(number), *point) for number, point in enumerate(points)]
    table = Table("gsm8k", [], rows)
    mark_front(table)
    assert table.axes == ["peak_rss_mib", "decode_tok_per_s"]
    by_id = {one.run.job_id: one for one in rows}
    for one in rows:
        assert one.on_front == (not any(dominates(other, one) for other in rows))
        if not one.on_front:
            assert one.dominated_by is not None
            assert dominates(by_id[one.dominated_by], one)
            assert by_id[one.dominated_by].on_front


def test_other_questions_are_another_front() -> None:
    easy, hard = ("task.split=test",), ("task.split=hard5",)
    rows = [
        row("a", 9, 100, 50, easy),
        row("b", 8, 200, 40, easy),
        row("c", 3, 100, 50, hard),
        row("d", 2, 99, 50, hard),
    ]
    mark_front(Table("gsm8k", ["task.split"], rows))
    assert [one.on_front for one in rows] == [True, False, True, True]
    assert [one.dominated_by for one in rows] == [None, "a", None, None]


def test_the_axes_are_what_all_rows_measured() -> None:
    rows = [row("a", 9, 100, None), row("b", 8, 200, 40)]
    table = Table("gsm8k", [], rows)
    mark_front(table)
    assert table.axes == ["peak_rss_mib"]
    assert [one.on_front for one in rows] == [True, False]
    for one in rows:
        del one.run.metrics["peak_rss_mib"]
        one.on_front = None
    mark_front(table)
    assert table.axes == []
    assert [one.on_front for one in rows] == [None, None]


def test_dominated_rows_are_marked_everywhere(store: Store, rows: Any, show: Any) -> None:
    for name, config, right, rss, speed in (
        ("none", NONE, 90, 900.0, 50.0),
        ("int8", INT8, 88, 950.0, 40.0),
        ("nf4", NF4, 80, 600.0, 45.0),
    ):
        metrics = {"peak_rss_mib": rss, "decode_tok_per_s": speed}
        store.job("front", name, config, marks(right, 100), metrics=metrics)
    found = rows("front")
    assert {name: one["on_front"] for name, one in found.items()} == {"none": True, "int8": False, "nf4": True}
    assert found["int8"]["dominated_by"] == "none"
    _, out, _ = show("front")
    line = next(line for line in out.splitlines() if line.startswith("int8"))
    assert line.rstrip().endswith("dominated")
    _, out, _ = show("front", "--format", "csv")
    assert next(line for line in out.splitlines() if line.startswith("gsm8k,int8")).split(",")[-4:-2] == [
        "False",
        "none",
    ]


def test_what_was_measured_beside_others_or_elsewhere_dominates_nothing() -> None:
    rows = [row("a", 9, 100, 50), row("b", 8, 200, 40), row("c", 9, 50, 90), row("d", 9, 60, 80)]
    for one in rows:
        one.run.facts = {"measured": "alone", "machine": "this one"}
    rows[2].run.facts["measured"] = "beside other work on 1.7 of 2 cores"
    rows[3].run.facts["machine"] = "a quicker one"
    table = Table("gsm8k", [], rows)
    mark_front(table)
    assert [one.on_front for one in rows] == [True, False, None, None]
    assert rows[1].dominated_by == "a"
    assert table.sentences == [
        "the Pareto front counts 2 of 4 runs: speed and peak memory count only where a job had a process and the machine "
        "to itself, on one kind of machine. Left out: c (measured beside other work on 1.7 of 2 cores), d (measured on "
        "another machine: a quicker one). To count them, run the jobs again on an idle machine with workers=1 "
        "hydra.launcher.fresh=true rerun=all"
    ]


def test_a_grid_beside_others_has_no_front_and_says_what_gives_it_one(store: Store, show: Any) -> None:
    for name, config in (("none", NONE), ("int8", INT8), ("nf4", NF4)):
        tags = {"fact.measured": "beside other work on 1.0 of 2 cores", "fact.machine": "A"}
        store.job("busy", name, config, marks(90, 100), tags=tags)
    _, out, _ = show("busy", "--baseline", "quantization=none")
    assert "dominated" not in out
    assert "• no Pareto front: speed and peak memory count only where" in out
    assert "run the jobs again on an idle machine with workers=1 hydra.launcher.fresh=true rerun=all" in out


def test_the_baselines_machine_decides(store: Store, show: Any) -> None:
    for name, config, machine in (("none", NONE, "A"), ("int8", INT8, "B"), ("nf4", NF4, "B")):
        tags = {"fact.measured": "alone", "fact.machine": machine}
        store.job("machines", name, config, marks(90, 100), tags=tags)
    _, out, _ = show("machines", "--baseline", "quantization=none")
    assert "Left out: int8 (measured on another machine: B) and 1 more. To count them, " in out
