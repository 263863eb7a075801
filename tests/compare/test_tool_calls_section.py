"""Calls of functions in a comparison: tables, sentences and JSON, from planted answers of which the
truth is known."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest
from json_schema import SCHEMA, faults

from runner_base.tool_outcomes import RIGHT, ToolOutcome
from runner_compare.features.tool_calls.pairs import TableToolCalls
from runner_compare.features.tool_calls.render import (
    build_category_columns,
    build_columns_of_tool_call_checks,
    build_tool_call_outcome_columns,
)
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Run, Table
from runner_compare.model.outcomes import Answers, QuestionOutcome, ToolCase
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.reader import Reader
from runner_compare.render.output import FORMATS, build_flat_comparison_records
from runner_compare.render.parts import build_table_report_part, table_sentences
from runner_compare.statistics import stats

A_CELL, LENGTHS = 80, (1024, 8192)
CATEGORIES = ("simple", "irrelevant")


class Planted(Reader):
    """Answers that are given."""

    def __init__(self, answers: Mapping[str, Answers]) -> None:
        super().__init__()
        self.answers = answers

    def load_answers(self, run: Run) -> Answers:
        """Return what is given for the run."""
        return self.answers[run.run_id]

    of_baseline = load_answers


def planted(
    right: Mapping[tuple[str, int], int], fails: ToolOutcome = ToolOutcome.wrong_arguments
) -> Answers:
    """Return answers of which so many are right in each category and length; all of them
    elsewhere."""
    answers: Answers = {}
    for length in LENGTHS:
        for category in CATEGORIES:
            for number in range(A_CELL):
                is_right = number < right.get((category, length), A_CELL)
                success = ToolOutcome.right if category == "simple" else ToolOutcome.nothing_called
                failure = fails if category == "simple" else ToolOutcome.called_without_need
                place = ToolCase(category, length, success if is_right else failure)
                key = len(answers), f"{category} {number}", "f()"
                answers[key] = QuestionOutcome(is_right, f"p{length}", f"{category}_{number}", tools=place)
    return answers


def table_of(settings: Mapping[str, Answers], baseline: str = "none") -> Table:
    runs = []
    for name, answers in settings.items():
        right = sum(outcome.solved for outcome in answers.values())
        metrics = {"n": float(len(answers)), "correct": float(right), "tool_accuracy": right / len(answers)}
        runs.append(Run(name, f"job-{name}", "tools", "1", "", {"quantization.name": name}, metrics))
    return build_comparison_table(runs, ComparisonOptions({"quantization.name": baseline}), Planted(settings))


SETTINGS = {
    "none": planted({("simple", 8192): 70}),
    "int8": planted({("simple", 8192): 68}),
    "nf4": planted({("simple", 8192): 30, ("irrelevant", 1024): 50}, ToolOutcome.malformed),
}


@pytest.mark.thorough
def test_rows_are_compared_in_each_category_and_length_and_all_share_one_error() -> None:
    compared = table_of(SETTINGS).get_section_data(TableToolCalls).compared
    found = {run_id: {cell: str(it.finding) for cell, it in own.items()} for run_id, own in compared.items()}
    nothing = "no difference shown"
    assert found == {
        "int8": dict.fromkeys([(it, length) for length in LENGTHS for it in CATEGORIES], nothing),
        "nf4": {
            ("simple", 1024): nothing, ("irrelevant", 1024): "worse", ("simple", 8192): "worse", ("irrelevant", 8192): nothing
        },
    }  # fmt: skip
    assert {decision.comparisons for own in compared.values() for decision in own.values()} == {8}


@pytest.mark.thorough
def test_sentences_say_where_calls_differ() -> None:
    said = "\n".join(table_sentences(table_of(SETTINGS)))
    assert "calls of nf4 vs none: worse in irrelevant at 1,024 (−37.5 points [" in said
    assert "worse in simple at 8,192 (−50.0 points [" in said
    assert "right calls: 6 of 8 comparisons show no significant difference " in said
    alike = "\n".join(
        table_sentences(table_of({"none": SETTINGS["none"], "int8": planted({("simple", 8192): 70})}))
    )
    assert "calls of int8 vs" not in alike, "the control: equal answers are no difference"


def test_steps_are_nested_and_failures_are_named() -> None:
    table = table_of(SETTINGS)
    steps = {
        column.head.replace("\n", " "): dict(zip(SETTINGS, column.cells, strict=False))
        for column in build_columns_of_tool_call_checks(table)[1:]
    }
    order = [row.run.run_id for row in table.rows]
    columns = {
        column.head.replace("\n", " "): dict(zip(order, column.cells, strict=True))
        for column in build_columns_of_tool_call_checks(table)
    }
    assert steps.keys() == {"well formed", "right tool", "right arguments", "nothing called"}
    assert columns["well formed"] == {"none": "100.0", "int8": "100.0", "nf4": "68.8"}
    assert columns["right arguments"] == {"none": "93.8", "int8": "92.5", "nf4": "68.8"}
    assert columns["nothing called"]["nf4"] == "81.2"
    failed = {
        column.head.replace("\n", " "): dict(zip(order, column.cells, strict=True))
        for column in build_tool_call_outcome_columns(table)
    }
    assert failed["malformed"] == {"none": "0", "int8": "0", "nf4": "50"}
    assert failed["wrong arguments"] == {"none": "10", "int8": "12", "nf4": "0"}
    cells = {column.head: column.cells for column in build_category_columns(table)}
    assert cells["tokens"] == ["1,024", "8,192"] * 3
    assert "87.5 of 80" in cells["simple"]


def test_the_record_is_as_its_schema_says_and_tables_fit() -> None:
    table = table_of(SETTINGS)
    out = io.StringIO()
    FORMATS["json"](Comparison([table]), out)
    record = json.loads(out.getvalue())
    assert list(faults(record, SCHEMA)) == []
    [row] = [row for row in record["tables"][0]["rows"] if row["config"]["quantization.name"] == "nf4"]
    found = row["tool_calls"]
    assert found["steps"]["right_arguments"] == 110 / 160
    assert found["cells"][2]["outcomes"] == {"right": 30, "malformed": 50}
    assert len(found["compared"]) == 4
    assert [it["step"] for it in found["steps_compared"]] == [
        "well_formed", "right_tool", "right_arguments", "nothing_called"
    ]  # fmt: skip
    assert found["steps_compared"][0]["difference"] == -50 / 160
    assert [(it["tokens"], it["shortest"]) for it in found["lengths_compared"]] == [(8192, 1024)]
    assert record["tables"][0]["error_families"] == [
        {"comparisons_of": what, "comparisons": count, "error": 0.05}
        for what, count in {
            "whole rows": 2, "categories and lengths": 8, "steps": 8, "longer contexts": 3
        }.items()
    ]  # fmt: skip
    sheet = next(
        line for line in build_flat_comparison_records(Comparison([table])) if line["run_id"] == "nf4"
    )
    assert sheet["right_calls_simple_8192"] == 30 / 80
    assert [grid.title for grid in build_table_report_part(table).grids[1:]]


def test_outcomes_are_right_as_verdicts_are() -> None:
    assert {ToolOutcome.right, ToolOutcome.nothing_called} == RIGHT


def in_families(cluster: str | None, right: int) -> Answers:
    """Return answers to 30 questions about ten functions, three each; the last ones are wrong."""
    answers: Answers = {}
    for number in range(30):
        name = f"function_{number // 3}"
        is_right = number < right
        outcome = ToolOutcome.right if is_right else ToolOutcome.wrong_arguments
        family = name if cluster == "function" else cluster and f"simple_{number}"
        answers[number, f"question {number}", f"{name}(a={number})"] = QuestionOutcome(
            is_right, "p", family, tools=ToolCase("simple", 0, outcome)
        )
    return answers


@pytest.mark.parametrize("cluster", ["function", None])
def test_answers_are_compared_by_function_also_where_an_earlier_version_recorded_none(
    cluster: str | None,
) -> None:
    """Four functions lost whole are little evidence, though 12 questions are."""
    table = table_of({"none": in_families(cluster, 30), "nf4": in_families("function", 18)})
    for effect in (table.rows[1].effect, table.get_section_data(TableToolCalls).compared["nf4"]["simple", 0]):
        assert effect is not None
        assert effect.counts["clusters"] == 10
        assert "in 10 clusters by function" in effect.counts["grouping"]
        assert effect.p > 0.05


def test_questions_of_families_of_their_own_are_independent() -> None:
    table = table_of({"none": in_families("question", 30), "nf4": in_families("question", 18)})
    for effect in (table.rows[1].effect, table.get_section_data(TableToolCalls).compared["nf4"]["simple", 0]):
        assert effect is not None
        assert effect.p == stats.compute_exact_mcnemar_p_value(0, 12) < 0.001


@pytest.mark.thorough
def test_steps_are_compared_with_the_baseline_and_share_one_error() -> None:
    """nf4 fails at the first step, int8 only fills in some more wrong arguments."""
    steps = table_of(SETTINGS).get_section_data(TableToolCalls).steps
    found = {
        run_id: {step: str(it.finding) for step, it in of_row.items()} for run_id, of_row in steps.items()
    }
    nothing = "no difference shown"
    names = ("well_formed", "right_tool", "right_arguments", "nothing_called")
    assert found == {"int8": dict.fromkeys(names, nothing), "nf4": dict.fromkeys(names, "worse")}
    assert {decision.comparisons for own in steps.values() for decision in own.values()} == {8}
    assert (steps["nf4"]["well_formed"].counts["wins"], steps["nf4"]["well_formed"].counts["losses"]) == (
        0,
        50,
    )
    assert steps["nf4"]["nothing_called"].n == 160
    said = "\n".join(table_sentences(table_of(SETTINGS)))
    assert "steps of nf4 vs none: worse at well formed (−31.2 points [" in said
    assert "steps of calls: 4 of 8 comparisons show no significant difference " in said


@pytest.mark.thorough
def test_longer_contexts_are_compared_with_the_shortest_on_the_same_questions() -> None:
    lengths = table_of(SETTINGS).get_section_data(TableToolCalls).lengths
    assert {run_id: {at: str(it.finding) for at, it in own.items()} for run_id, own in lengths.items()} == {
        "none": {8192: "worse"}, "int8": {8192: "worse"}, "nf4": {8192: "worse"}
    }  # fmt: skip
    assert (lengths["none"][8192].counts["wins"], lengths["none"][8192].counts["losses"]) == (0, 10)
    assert (lengths["nf4"][8192].counts["wins"], lengths["nf4"][8192].counts["losses"]) == (30, 50)
    said = "\n".join(table_sentences(table_of(SETTINGS)))
    assert "none: correct calls at 8,192 tokens, compared with 1,024 tokens: worse (−6.2 points [" in said
    alike = "\n".join(table_sentences(table_of({name: planted({}) for name in SETTINGS})))
    assert "longer contexts: 3 of 3 comparisons show no significant difference " in alike


def test_the_table_states_its_error_rate() -> None:
    said = "\n".join(table_sentences(table_of(SETTINGS)))
    assert "at most 5 % of tables like this " in said
    assert "whole rows (2), categories and lengths (8), steps (8), longer contexts (3)." in said
    assert "At most 20 % have a wrong finding about any of these." in said
