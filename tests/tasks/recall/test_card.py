"""What a job of task=recall says of itself: how far a model that is known to forget can look back,
and where it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recalling import remembering
from scripted import Scripted
from tasking import work

from runner.config.root import RunnerConfig
from runner.recorded_runs.sample_reader import read_verdicts
from runner.records.jobs import Job, Recorder
from runner.tasks.recall import task as recall
from runner.tasks.recall.keys import RecallConfig
from runner_base.result import FinishReason, Result, Verdict
from runner_compare.features.recall.card import CURVE, POINTS, RecallCard
from runner_compare.features.recall.render.pictures import create_job_recall_pictures
from runner_compare.features.recall.render.tables import BY_DEPTH
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
FORGETS = (
    900  # characters from the end that are remembered: a text of 512 tokens, and the end of a longer one
)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("recall-test", folder))
    yield opened
    opened.close()


@pytest.fixture
def asked(make_config: Make, recorder: Recorder) -> Callable[..., Result]:
    """Return a function that asks a model that remembers the last characters of a prompt."""

    def ask(characters: int | None, **keys: Any) -> Result:
        of_task: dict[str, Any] = {
            "cases": 8,
            "num_texts": 1,
            "lengths": ["256", "512", "1k"],
            "pictures": False,
        } | keys
        task = RecallConfig(**of_task)
        model = LocalModelConfig(name="embedded", device="cpu")
        config = make_config(model=model, generation=GenerationConfig(max_new_tokens=32), task=task)
        return work(recall, config, recorder, Scripted(remembering(characters)))

    return ask


def test_a_model_that_forgets_the_beginning_is_said_to(
    asked: Callable[..., Result], recorder: Recorder
) -> None:
    result = asked(FORGETS)
    assert result.facts["effective_length"].startswith("at least 512 tokens, below 1,024 tokens")
    ends = [result.metrics[f"effective_length_tokens{end}"] for end in ("", "_low", "_high")]
    assert ends == [512, 512, 512]
    first, _, last = result.tables[BY_DEPTH]
    assert [first[depth] for depth in ("0", "0.25", "0.5", "0.75", "1")] == [100] * 5
    assert (last["0"], last["1"]) == (0, 100)
    (sentence,) = (note for note in result.notes if "depends on the needle's depth" in note)
    assert "in texts of 1,024 tokens, recall is lower at depths 0 to 0." in sentence
    assert [length for length, _ in result.series[CURVE]] == [256, 512, 1024]
    drawn = json.loads((recorder.folder / POINTS).read_text())
    assert [picture.name for picture in create_job_recall_pictures(drawn)] == ["recall_curve", "recall_map"]
    assert create_job_recall_pictures(drawn)[1].to_svg().count(">100<") > 5


@pytest.mark.thorough
def test_a_model_that_finds_all_reaches_the_longest(asked: Callable[..., Result], recorder: Recorder) -> None:
    result = asked(None, kinds=["single", "several_asked_one", "several_asked_all"], lengths=["512", "1k"])
    assert "at least 1,024 tokens, the longest tested length" in result.facts["effective_length"]
    assert not any("depends on the needle's depth" in note for note in result.notes)
    by_kind = next(rows for title, rows in result.tables.items() if "by kind" in title)
    assert {row["kind"]: row["less than"] for row in by_kind} == {
        "single": None, "several_asked_one": None, "several_asked_all": None
    }  # fmt: skip
    places = {outcome.recall for outcome in read_verdicts(recorder.folder / "samples.jsonl").values()}
    assert {(place.kind, place.depth) for place in places if place} >= {
        ("single", 0.5),
        ("several_asked_all", None),
    }


def test_answers_to_a_question_count_as_one_question(
    asked: Callable[..., Result], recorder: Recorder
) -> None:
    result = asked(None, kinds=["single", "several_asked_one"], cases=3, lengths=["512"])
    clusters = {sample.cluster for sample in recorder.samples.values()}
    assert clusters == {
        f"single/{depth}/{number}" for depth in (0.0, 0.25, 0.5, 0.75, 1.0) for number in range(3)
    } | {f"several_asked_one/{number}" for number in range(3)}
    assert result.metrics["families"] == 15 + 3


@pytest.mark.thorough
def test_near_zero_is_said_with_what_was_cut_off(asked: Callable[..., Result], recorder: Recorder) -> None:
    result = asked(1)
    assert "effective_length" not in result.facts
    (note,) = (note for note in result.notes if "near zero" in note)
    assert "answers cut off" not in note
    cut = [
        replace(
            sample, answer=replace(sample.answer, finish_reason=FinishReason.length, verdict=Verdict.cut_off)
        )
        for sample in recorder.samples.values()
    ]
    assert "40 of 40 answers cut off" in RecallCard.from_samples(cut, 10, "").notes[0]


@pytest.mark.thorough
def test_another_margin_is_another_result(asked: Callable[..., Result]) -> None:
    result = asked(FORGETS, margin=80.0)
    assert (
        result.facts["effective_length"]
        == "at least 1,024 tokens, the longest tested length, within 80 points"
    )
