"""task.rotate: a model that always prefers a position is found, and one that does not is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from likely import jsonl

from runner_compare.statistics.position_bias import QuestionInOrders, measure_position_bias

QUESTIONS = [
    {"question": f"What is {number} + 1?", "choices": [str(number + at) for at in range(4)], "answer": 1}
    for number in range(20)
]


def asked(runner: Callable[..., Any], tmp_path: Path, *arguments: str) -> tuple[dict[str, float], str]:
    data = jsonl(tmp_path / "sums.jsonl", QUESTIONS)
    done = runner("model=stub", f"task.data={data}", "tracking=none", "print=json", *arguments)
    assert done.code == 0, done.err
    return done.json()["metrics"], (Path(done.json()["output_dir"]) / "result.json").read_text()


def test_a_stub_that_always_prefers_b_is_found(runner: Callable[..., Any], tmp_path: Path) -> None:
    metrics, record = asked(runner, tmp_path, "model.answer='#### B'", "task.rotate=4")
    assert metrics["position_bias_points"] == 75.0
    assert 40 < metrics["position_bias_points_low"] < 75.0 == metrics["position_bias_points_high"]
    assert metrics["position_bias_p"] < 0.001
    assert metrics["accuracy"] == 0.25
    assert metrics["n"] == 80
    assert metrics["families"] == 20
    assert metrics["same_in_all_orders_share"] == metrics["right_in_all_orders_share"] == 0
    assert "position bias (p = 0.0001): the model chooses B in 100.0% of the answers" in record
    metrics, record = asked(runner, tmp_path, "model.answer='#### B'")
    assert metrics["accuracy"] == 1, "in one order it seems to know everything"
    assert "B is the right choice of all 20 questions" in record


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["task.rotate=4", "task.early_stop_vs=quantization=none"],
            "task.rotate=4: task.early_stop_vs needs independent questions",
        ),
        (
            ["task.rotate=4", "task.check_contamination=2"],
            "task.rotate=4: task.check_contamination cannot change questions with rotated choices",
        ),
        (["task.rotate=27"], "task.rotate=27"),
    ],
)
def test_what_it_cannot_be_asked_with_is_refused(
    runner: Callable[..., Any], arguments: list[str], message: str
) -> None:
    done = runner("model=stub", "tracking=none", *arguments)
    assert done.code == 2
    assert message in done.err


def test_knowledge_is_no_bias_whatever_the_letter(tmp_path: Path) -> None:
    """Texts are chosen with noise, and the right one stands at A first: not even two of four orders
    mislead."""
    draw = Random(0)
    shifts = (0, 2)
    answers = []
    for _ in range(200):
        texts = [0 if draw.random() < 0.8 else draw.randrange(4) for _ in shifts]
        answers.append(
            QuestionInOrders(4, shifts, tuple((it + at) % 4 for it, at in zip(texts, shifts, strict=True)))
        )
    result = measure_position_bias(answers)
    assert result.positions[0].share > 0.35, "A is chosen most"
    assert abs(result.positions[0].share - result.positions[0].expected) < 0.05
    assert result.p > 0.05


def test_unanswered_orders_and_unequal_questions_count() -> None:
    known = QuestionInOrders(4, (0, 1, 2, 3), (0, 1, None, 3))
    result = measure_position_bias([known, QuestionInOrders(3, (0, 1, 2), (2, 0, 1))])
    assert [it.share for it in result.positions] == [2 / 7, 2 / 7, 1 / 7, 1 / 7]
    assert sum(it.expected for it in result.positions) == pytest.approx(6 / 7)
    assert result.p > 0.05
