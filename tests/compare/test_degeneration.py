"""Degenerate answers of two runs are paired by question, from planted answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from json_schema import SCHEMA, faults

from runner_compare.features.degeneration.compute import (
    LoopStart,
    TableDegeneration,
    compute_half_loop_words,
    compute_loop_free_survival_curve,
)
from runner_compare.features.degeneration.section import SECTION
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import TEXT_END, Run, Table
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.reader import Reader
from runner_compare.render.output import FORMATS
from runner_compare.statistics import Finding
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value

N = 60
LOOP = "and so on, as before, " * 20


class Planted(Reader):
    """All verdicts are right, and the first answers of a run are loops."""

    def __init__(self, loops: dict[str, int], family: int = 0) -> None:
        super().__init__()
        self.loops, self.family = loops, family

    def load_answers(self, run: Run) -> Answers:
        """Return the verdicts."""
        clusters = [str(at // self.family) if self.family else None for at in range(N)]
        return {
            (at, f"question {at}", "42"): QuestionOutcome(True, "prompt", cluster)
            for at, cluster in enumerate(clusters)
        }

    of_baseline = load_answers

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        """Return the texts."""
        return {
            question: {"text": LOOP if question[0] < self.loops[run.run_id] else "It is 42."}
            for question in questions
        }

    def iter_generated_texts(self, run: Run) -> Iterator[str]:
        """Yield the texts."""
        return iter([LOOP] * self.loops[run.run_id] + ["It is 42."] * (N - self.loops[run.run_id]))


def compare(loops: dict[str, int], family: int = 0) -> Table:
    runs = [
        Run(
            name,
            f"job-{name}",
            "gsm8k",
            "1",
            "",
            {"quantization.name": name},
            {"n": float(N), "correct": float(N), "degenerate": float(count), "loops": float(count)},
        )
        for name, count in loops.items()
    ]
    options = ComparisonOptions({"quantization.name": "none"})
    return build_comparison_table(runs, options, Planted(loops, family))


def read_record(table: Table, name: str) -> dict[str, Any]:
    out = io.StringIO()
    FORMATS["json"](Comparison([table]), out)
    document = json.loads(out.getvalue())
    assert list(faults(document, SCHEMA)) == []
    (row,) = (row for row in document["tables"][0]["rows"] if row["job_id"] == f"job-{name}")
    record: dict[str, Any] = row.get("degeneration", {})
    return record


@pytest.mark.parametrize(
    ("loops", "finding"), [(12, Finding.worse), (3, Finding.open), (0, None)], ids=["many", "few", "none"]
)
def test_more_loops_than_the_baseline_has_are_tested(loops: int, finding: Finding | None) -> None:
    record = read_record(compare({"none": 0, "fp4": loops}), "fp4")
    if finding is None:
        assert record == {}, "no text is read where no answer degenerated"
        return
    assert (record["finding"], record["questions"]) == (finding, N)
    assert record["difference"] == pytest.approx(loops / N)
    assert record["p"] == pytest.approx(compute_exact_mcnemar_p_value(0, loops))
    assert record["simultaneous_low"] < loops / N < record["simultaneous_high"]


def test_fewer_loops_than_the_baseline_has_are_better() -> None:
    record = read_record(compare({"none": 12, "int8": 0}), "int8")
    assert (record["finding"], record["difference"]) == (Finding.better, pytest.approx(-12 / N))


def test_the_comparisons_of_a_table_share_the_error_rate() -> None:
    table = compare({"none": 0, "int8": 7, "nf4": 7, "fp4": 7, "q4": 7})
    effects = table.get_section_data(TableDegeneration).effects
    assert {effect.finding for effect in effects.values()} == {Finding.open}, "p = 0.016, four times"
    assert (
        compare({"none": 0, "nf4": 7}).get_section_data(TableDegeneration).effects["nf4"].finding
        == Finding.worse
    )


def test_loops_of_one_family_of_questions_are_less_evidence() -> None:
    alone = compare({"none": 0, "fp4": 12}).get_section_data(TableDegeneration).effects["fp4"]
    in_families = compare({"none": 0, "fp4": 12}, family=6).get_section_data(TableDegeneration).effects["fp4"]
    assert alone.finding is Finding.worse
    assert in_families.finding is Finding.open
    assert in_families.p > alone.p


def test_the_picture_has_a_curve_of_each_run() -> None:
    table = compare({"none": 0, "nf4": 15})
    assert (
        table.get_section_data(TableDegeneration).loop_starts["nf4"].count(LoopStart(0, has_loop=True)) == 15
    )
    (picture,) = SECTION.pictures(table)
    (pane,) = picture.make().axes
    curves = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in pane.lines}
    assert curves == {"none": [100, 100], "nf4": [100, 75, 75]}
    assert SECTION.pictures(compare({"none": 0, "nf4": 0})) == []


def test_an_answer_that_ends_counts_as_long_as_it_lasts() -> None:
    """Half of the answers end healthy before any loop; of those that go on, each loops later."""
    starts = [LoopStart(10, has_loop=False)] * 10 + [LoopStart(20 + at, has_loop=True) for at in range(10)]
    curve = compute_loop_free_survival_curve(starts)
    assert [num_words for num_words, _ in curve] == [0, *range(20, 30), 29]
    assert [share for _, share in curve[:3]] == pytest.approx([1.0, 0.9, 0.8])
    assert curve[10][1] == pytest.approx(0)
    assert compute_half_loop_words(starts) == 24
    assert compute_half_loop_words(starts[:10]) is None
