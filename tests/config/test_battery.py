"""conf/battery.yaml: each task's number of questions follows from the margin."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.config.battery_sizes import DISAGREEMENT, NUM_TASKS, plan_battery_questions
from runner.config.choices import CONF, list_choices
from runner_base import ConfigError
from runner_compare.statistics import McNemarTest, decide_comparisons_with_holm
from runner_compare.statistics.margins import MarginVerdict

Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command


def test_the_planned_questions_of_all_tasks_decide_about_the_margin() -> None:
    total = NUM_TASKS * plan_battery_questions(3)
    pairs = round(total * DISAGREEMENT / 2)

    def decide(number: int) -> MarginVerdict | None:
        (decision,) = decide_comparisons_with_holm([McNemarTest(pairs, pairs, number)], {"accuracy": 0.03})
        return decision.verdict

    assert decide(total) is MarginVerdict.as_good
    assert decide(total // 4) is MarginVerdict.undecided, "the control has too few questions"


def test_groups_share_the_questions_and_a_smaller_margin_needs_more() -> None:
    assert plan_battery_questions(3, 4) == -(-plan_battery_questions(3) // 4)
    assert plan_battery_questions("1.5") == pytest.approx(4 * plan_battery_questions("3"), abs=4)


@pytest.mark.parametrize("margin", [None, "0.01nats", 0, -2, "five", 100])
def test_a_margin_without_points_gives_no_number(margin: Any) -> None:
    with raises(ConfigError, "bad_value", "gate.margin"):
        plan_battery_questions(margin)


def test_a_plan_of_the_battery_lists_all_tasks(runner: Run, tmp_path: Path) -> None:
    each = plan_battery_questions(5)
    groups = {"tools": 4, "recall": 10}
    questions = {"likelihood": 200, "code": 20, "instructions": each, "gsm8k": each}
    questions |= {task: number * plan_battery_questions(5, number) for task, number in groups.items()}
    present = [task for task in questions if task in list_choices("task")]  # options may be taken away
    chosen = f"task={','.join(f'battery/{task}' for task in present)}"
    done = runner("-cn", "battery", "plan=quick", "tracking=none", "gate.margin=5", chosen, cwd=tmp_path)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith(("  none", "  nf4"))]
    shown = [
        (line.split()[1].rpartition("/")[2], int(re.findall(r"\d+", line.partition("yes")[2])[-1]))
        for line in lines
    ]
    assert shown == 2 * [(task, questions[task]) for task in present]
    battery = (CONF / "battery.yaml").read_text()
    assert {*re.findall(r"battery/(\w+)", battery)} == {*questions}


def test_a_margin_without_points_is_named(runner: Run, tmp_path: Path) -> None:
    words = ("plan=quick", "tracking=none", "task=battery/tools", "gate.margin=0.01nats")
    done = runner("-cn", "battery", *words, cwd=tmp_path)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: gate.margin=0.01nats: "), done.err
