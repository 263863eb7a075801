"""RULER's score of answers beside lm-evaluation-harness's on the same answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from recalling import remembering
from scripted import Reply, Scripted
from tasking import work

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.records.jobs import Job, Recorder
from runner.render.titles import RULER_SCORES
from runner.tasks.recall import task as recall
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.placement import render_cases_with_fitting_filler
from runner.tasks.recall.ruler_score import SCORE, compute_found_gold_fraction
from runner_base.result import FinishReason
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
LENGTH = "4096"  # in the harness the name of a metric
GOLD = ["4713920", "amber-kite", "0F8fad5b-d9cb-469f-a165-70867728950e", "KQZRA"]
AROUND = ["", " ", "x", "\n", "\t", "\x07", ", ", "**", "'"]
KINDS = ["niah_multivalue", "niah_multiquery"]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("recall-test", folder))
    yield opened
    opened.close()


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness's functions that score answers."""
    # the harness sets it, and it ends with the test
    monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")
    pytest.importorskip("lm_eval")
    return import_module("lm_eval.tasks.ruler.common_utils")


def by_harness(harness: Any, text: str, gold: list[str]) -> float:
    scores: dict[str, float] = harness.process_results({"max_length": LENGTH, "outputs": gold}, [text])
    return scores[LENGTH]


def test_the_score_of_an_answer(harness: Any) -> None:
    draw, seen = random.Random(1), set()
    for _ in range(200):
        gold = draw.sample(GOLD, draw.randint(1, len(GOLD)))
        said = [*draw.sample(GOLD, draw.randint(0, len(GOLD))), "471392", "amber kite"]
        draw.shuffle(said)
        cased = [draw.choice((value.lower(), value.upper(), value)) for value in said]
        text = "".join(draw.choice(AROUND) + value + draw.choice(AROUND) for value in cased)
        score = compute_found_gold_fraction(text, gold)
        assert score == pytest.approx(by_harness(harness, text, gold)), (text, gold)
        seen.add(round(score, 2))
    assert {0, 0.25, 0.33, 0.5, 0.67, 0.75, 1} == seen


def test_a_part_of_the_values_is_a_part_of_the_score_and_no_exact_answer(
    harness: Any, make_config: Make, recorder: Recorder
) -> None:
    finds_all = remembering()

    def every_second(request: Request) -> Reply:
        values = finds_all(request)[0].removesuffix(".").removeprefix("It is ").split(" and ")
        return f"They are {', '.join(values[::2])} and 1234567", FinishReason.stop

    model = LocalModelConfig(name="embedded", device="cpu")
    task = RecallConfig(kinds=[*KINDS, "single"], lengths=["1000", "1024"], cases=2, pictures=False)
    config = make_config(model=model, generation=GenerationConfig(max_new_tokens=32), task=task)
    result = work(recall, config, recorder, Scripted(every_second))
    placed = render_cases_with_fitting_filler(task, recall.prepare(config).units, resolve_job(config))
    scores = {
        index: by_harness(harness, sample.answer.text, [*placed[index].asked.gold])
        for index, sample in recorder.samples.items()
        if placed[index].kind in KINDS
    }
    assert result.metrics[SCORE] == pytest.approx(harness.aggregate_metrics([*scores.values()]))
    assert 0 < result.metrics[SCORE] < 1
    for row in result.tables[RULER_SCORES]:
        of_row = [
            score
            for index, score in scores.items()
            if (placed[index].kind, placed[index].length) == (row["kind"], row["tokens"])
        ]
        mean = harness.aggregate_metrics(of_row)
        assert (row["RULER's score"], row["exact"], row["answers"]) == (f"{100 * mean:.1f}", "0.0", 2)
        assert result.metrics[f"{SCORE}/{row['kind']}_{row['tokens']}"] == pytest.approx(mean)
    assert {row["kind"] for row in result.tables[RULER_SCORES]} == {*KINDS}, (
        "our own kinds have no such score"
    )
