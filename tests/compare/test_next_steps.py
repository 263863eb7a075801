"""The last lines of the default output: which command leads further, and whether it can be copied."""

from __future__ import annotations

import shlex

from compared import example, judge_example, rows_of

from runner_compare.model.comparison import Comparison, View
from runner_compare.model.data import Table
from runner_compare.render.next_steps import (
    format_next_steps_and_details,
    join_texts_into_lines,
    suggest_next_command,
)
from runner_compare.statistics import McNemarTest, SignFlipTest

COMMAND = ("runner-compare", "--output-dir", "my runs")


def compared(margin: float | None = 0.02) -> Table:
    table = example()
    judge_example(table.rows, {} if margin is None else {"accuracy": margin})
    for row in table.rows:
        row.run.params |= {key: value for key, value in row.config.items() if value}
    return table


def command_of(table: Table) -> list[str]:
    step = suggest_next_command(table, COMMAND)
    assert step is not None
    return shlex.split(step[0])


def test_without_a_baseline_the_command_names_the_value_that_changes_no_model() -> None:
    table = compared()
    table.baseline = {}
    assert command_of(table) == [*COMMAND, "--baseline", "quantization=none"]
    table.rows = table.rows[:1]
    assert suggest_next_command(table, COMMAND) is None, "nothing to compare"


def test_a_known_number_of_questions_is_asked_for_where_jobs_have_a_limit() -> None:
    table = compared()
    (needed,) = (row.effect.needed for row in table.rows if row.effect and row.effect.is_undecided)
    assert needed is not None
    for row in table.rows:
        row.run.params["task.limit"] = "1000"
    *_, limit = command_of(table)
    assert needed <= int(limit.removeprefix("task.limit=")) <= 1.01 * needed


def test_else_the_flips_of_the_worst_candidate_are_shown() -> None:
    *command, first, second = command_of(compared())
    assert command == [*COMMAND, "--flips"]
    assert first == "quantization=none,task.split=hard5"
    assert second == "quantization=nf4,task.split=hard5"
    table = compared()
    for row in table.rows:
        row.config = row.config | {"quantization.name": f"a b {row.run.job_id}"}
    assert command_of(table)[-2:] == ["none", "nf4"], "ids where a filter would need quotes"


def test_likelihoods_without_a_margin_get_one() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    for margins, margin in ((None, "0.01nats"), ({"log_likelihood": 0.01}, "")):
        rows = rows_of(likelihood, margins=margins)
        for row in rows:
            row.run.metrics["log_likelihood_nats_per_token"] = -1.0
        table = Table("likelihood", ["quantization.name"], rows, {"quantization.name": "none"})
        step = suggest_next_command(table, COMMAND)
        assert (step is None) == (not margin)
        if step is not None:
            assert shlex.split(step[0]) == [*COMMAND, "--baseline", "quantization=none", "--margin", margin]


def test_nothing_is_suggested_where_all_is_decided() -> None:
    rows = rows_of(McNemarTest(20, 20, 2000), margins={"accuracy": 0.02})
    assert (
        suggest_next_command(
            Table("any", ["quantization.name"], rows, {"quantization.name": "none"}), COMMAND
        )
        is None
    )


def test_a_long_command_has_lines_that_a_shell_joins_again() -> None:
    table = compared()
    view = View(command=COMMAND, shown_at="mlflow ui --backend-store-uri sqlite:///my/mlflow.db")
    for width in (70, 100):
        lines = format_next_steps_and_details(Comparison([table], view), [table], width)
        assert max(map(len, lines)) <= width
        first = next(number for number, line in enumerate(lines) if line.startswith("Details:"))
        command = "\n".join(line for line in lines[:first] if not line.strip().startswith("("))
        assert shlex.split(command.removeprefix("Next:").replace("\\\n", " ")) == command_of(table)
        assert any("mlflow ui" in line for line in lines[first:])


def test_what_is_shown_already_is_no_detail() -> None:
    table = compared()
    lines = format_next_steps_and_details(Comparison([table], View(explain=True, plot=True)), [table], 100)
    assert lines[-1] == "Details: --columns all · --save DIR"
    assert format_next_steps_and_details(Comparison([]), [], 100) == []


def test_parts_are_joined_as_far_as_a_line_has_room() -> None:
    assert join_texts_into_lines(["one", "two", "three"], 9) == ["one · two", "three"]
    assert join_texts_into_lines(["a part that is longer"], 9) == ["a part that is longer"]
