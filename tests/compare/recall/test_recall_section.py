"""Recall in a comparison: its tables, sentences, JSON and pictures, from planted answers of which
the truth is known."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest
from json_schema import SCHEMA, faults
from raising import raises

from runner_base import ConfigError
from runner_base.tables import fit_table_to_width
from runner_compare.features.recall.compute import (
    RecallFindings,
    TableRecall,
    divide_error_rate,
    recompute_effective_lengths_with_margin,
)
from runner_compare.features.recall.render.tables import build_columns_of_recall_by_length
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Run, Table
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome, RecallPosition
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.reader import Reader
from runner_compare.render.output import FORMATS, build_flat_comparison_records
from runner_compare.render.parts import build_table_report_part, table_sentences

LENGTHS, DEPTHS, A_CELL = (1024, 2048, 4096, 8192), (0.0, 0.5, 1.0), 20
NEAR_ALL, HALF, NONE = 20, 10, 0  # right answers of a cell
UP_TO_1K = {1024: NEAR_ALL, 2048: NONE, 4096: NONE, 8192: NONE}
UP_TO_4K = {1024: NEAR_ALL, 2048: NEAR_ALL, 4096: NEAR_ALL, 8192: NONE}
SOME_BEYOND_4K = UP_TO_4K | {8192: HALF}
NOTHING = dict.fromkeys(LENGTHS, NONE)


class Planted(Reader):
    """Answers that are given."""

    def __init__(self, answers: Mapping[str, Answers]) -> None:
        super().__init__()
        self.answers = answers

    def load_answers(self, run: Run) -> Answers:
        """Return what is given for the run."""
        return self.answers[run.run_id]

    load_baseline_answers = load_answers


def planted(right: Mapping[int, int], lost_depth: float | None = None) -> Answers:
    """Return answers of which so many are right at each depth of a length, and none at a lost depth
    of long texts."""
    answers: Answers = {}
    for length in LENGTHS:
        for depth in DEPTHS:
            for number in range(A_CELL):
                is_lost = depth == lost_depth and length >= 4096
                question: Question = (len(answers), f"question {depth} {number}", "42")
                answers[question] = QuestionOutcome(
                    number < right[length] and not is_lost,
                    "prompt",
                    f"single {depth} {number}",
                    recall=RecallPosition("single", length, depth),
                )
    return answers


def table_of(settings: Mapping[str, Answers], baseline: str = "", metric: str = "recall_accuracy") -> Table:
    """Return the table of some settings of RoPE."""
    runs = []
    for name, answers in settings.items():
        right = sum(outcome.solved for outcome in answers.values())
        metrics = {"n": float(len(answers)), "correct": float(right), metric: right / len(answers)}
        runs.append(Run(name, f"job-{name}", "recall", "1", "", {"rope.name": name}, metrics))
    return build_comparison_table(
        runs, ComparisonOptions({"rope.name": baseline} if baseline else {}), Planted(settings)
    )


@pytest.fixture(scope="module")
def table() -> Table:
    """A baseline, two settings that reach further, and one that finds nothing."""
    settings = {"native": UP_TO_1K, "linear": UP_TO_4K, "yarn": SOME_BEYOND_4K, "dynamic": NOTHING}
    return table_of({name: planted(right) for name, right in settings.items()}, "native")


def test_each_setting_has_its_effective_length_and_the_table_fits(table: Table) -> None:
    columns = {column.head: column.cells for column in build_columns_of_recall_by_length(table)}
    assert dict(zip(columns["rope"], columns["effective\nlength ≥"], strict=True)) == {
        "native": "1,024", "linear": "4,096", "yarn": "4,096", "dynamic": "–"
    }  # fmt: skip
    assert dict(zip(columns["rope"], columns["effective\nlength <"], strict=True)) == {
        "native": "2,048", "linear": "8,192", "yarn": "8,192", "dynamic": "–"
    }  # fmt: skip
    assert columns["% at\n8,192"][columns["rope"].index("yarn")] == "50"
    for grid in build_table_report_part(table).grids[1:]:
        fitted = fit_table_to_width(grid.columns, 100)
        assert not fitted.left_out
        assert not fitted.breaks_words


def test_settings_are_compared_at_each_length_and_all_share_one_error(table: Table) -> None:
    compared = table.get_section_data(TableRecall).compared
    assert {run_id: [str(it.finding) for it in of_row.values()] for run_id, of_row in compared.items()} == {
        "linear": ["no difference shown", "better", "better", "no difference shown"],
        "yarn": ["no difference shown", "better", "better", "better"],
        "dynamic": ["worse", "no difference shown", "no difference shown", "no difference shown"],
    }
    assert {decision.comparisons for of_row in compared.values() for decision in of_row.values()} == {12}
    said = "\n".join(table_sentences(table))
    assert "recall of yarn vs native: better at 2,048 (+100.0 points [" in said
    assert "recall at each length: 6 of 12 comparisons show no significant difference " in said
    assert "recall at each length (12)" in said
    assert "linear, yarn: highest lower bound of the effective length (4,096 tokens)" in said
    assert "dynamic: recall is near zero even at the shortest length: 0.0 % [" in said


def test_a_lost_depth_is_named_and_in_the_control_none_is() -> None:
    lost = table_of(
        {"native": planted(dict.fromkeys(LENGTHS, 20)), "linear": planted(dict.fromkeys(LENGTHS, 20), 0.5)}
    )
    said = [line for line in table_sentences(lost) if "depends on the needle's depth" in line]
    assert len(said) == 1
    assert said[0].startswith(
        "linear: recall depends on the needle's depth (0: start of the text, 1: end): "
        "in texts of 4,096 tokens, recall is lower at depth 0.5 (0 %, elsewhere 100 %, p=0.0002)"
    )
    assert "in texts of 8,192 tokens, recall is lower at depth 0.5 (" in said[0]


def test_the_record_is_as_its_schema_says_and_the_sheet_has_the_lengths(table: Table) -> None:
    out = io.StringIO()
    FORMATS["json"](Comparison([table]), out)
    document = json.loads(out.getvalue())
    assert list(faults(document, SCHEMA)) == []
    of_row = {row["config"]["rope.name"]: row["recall"] for row in document["tables"][0]["rows"]}
    assert of_row["linear"]["effective_length"] == {
        "tokens": 4096,
        "at_least": 4096,
        "below": 8192,
        "undecided": [],
        "words": "at least 4,096 tokens, below 8,192 tokens",
    }
    assert of_row["dynamic"]["effective_length"] is None
    families = document["tables"][0]["error_families"]
    assert {it["comparisons_of"]: it["comparisons"] for it in families} == {
        "whole rows": 3, "recall at each length": 12, "effective lengths": 3, "depths": 16
    }  # fmt: skip
    assert any(
        "At most 20 % have a wrong finding about any of these" in line
        for line in document["tables"][0]["sentences"]
    )
    assert [length["depths"][0]["recall"] for length in of_row["yarn"]["lengths"]] == [1.0, 1.0, 1.0, 0.5]
    lines = {line["rope.name"]: line for line in build_flat_comparison_records(Comparison([table]))}
    assert lines["yarn"]["effective_length_below"] == 8192
    assert lines["yarn"]["recall_8192"] == 0.5
    with io.StringIO() as sheet:
        FORMATS["csv"](Comparison([table]), sheet)
        assert "recall_8192" in sheet.getvalue()


def test_what_is_the_same_of_several_rows_is_said_once() -> None:
    table = table_of({name: planted(NOTHING) for name in ("native", "linear", "yarn")})
    said = [line for line in table_sentences(table) if "near zero" in line]
    assert len(said) == 1
    assert said[0].startswith("linear, native, yarn: recall is near zero")


def test_another_margin_decides_anew() -> None:
    weaker = {1024: 20, 2048: 17, 4096: 17, 8192: 17}  # 15 points less
    table = table_of({"native": planted(weaker), "linear": planted(UP_TO_4K)})
    found = table.get_section_data(TableRecall).findings
    assert found["native"].effective_length is not None
    assert found["native"].effective_length.at_least == 1024
    recompute_effective_lengths_with_margin([table], "40")
    found = table.get_section_data(TableRecall).findings
    assert found["native"].effective_length is not None
    assert found["native"].effective_length.at_least == 8192
    assert "a loss of at most 40 points compared with the recall" in "\n".join(table_sentences(table))


@pytest.mark.parametrize("margin", ["0", "100", "-3", "ten"])
def test_a_margin_that_is_none_is_refused(table: Table, margin: str) -> None:
    with raises(ConfigError, "bad_value", "--recall-margin"):
        recompute_effective_lengths_with_margin([table], margin)


def test_other_tables_are_as_they_were() -> None:
    plain = {
        name: {q: it._replace(recall=None) for q, it in planted(UP_TO_1K).items()}
        for name in ("native", "yarn")
    }
    table = table_of(plain, "native", metric="accuracy")
    assert table.get_section_data(TableRecall).findings == {}
    assert len(build_table_report_part(table).grids) == 1
    with raises(ConfigError, "empty", "--recall-margin"):
        recompute_effective_lengths_with_margin([table], "10")


def test_pictures_are_drawn(table: Table) -> None:
    from runner_compare.features.recall.section import SECTION

    curve, heat_map = SECTION.pictures(table)
    assert (curve.name, heat_map.name) == ("recall_curve", "recall_map")
    drawn = heat_map.to_svg()
    assert drawn.count(">50<") == len(DEPTHS), "yarn at 8,192 tokens"
    for name in ("native", "linear", "yarn", "dynamic"):
        assert f">{name}<" in drawn
        assert f">{name}<" in curve.to_svg()


def test_effective_lengths_of_a_table_share_one_error() -> None:
    """The same answers show less where the longest of more rows is looked for."""
    findings = {str(at): RecallFindings(tuple(planted(UP_TO_4K).values())) for at in range(10)}
    shared = divide_error_rate(findings)
    assert {own.significance_levels for own in shared.values()} == {(0.005, 0.005)}
    assert findings["0"].significance_levels == (0.05, 0.05), "the control: a row by itself"


def test_rows_that_reach_every_length_pass_on_their_level() -> None:
    every = {str(at): RecallFindings(tuple(planted(dict.fromkeys(LENGTHS, 20)).values())) for at in range(9)}
    other = RecallFindings(tuple(planted(UP_TO_1K).values()))
    assert divide_error_rate(every | {"last": other})["last"].significance_levels == (0.005, 0.05)
    assert divide_error_rate({"first": other, "last": other})["last"].significance_levels == (0.025, 0.025)
