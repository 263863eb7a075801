"""Recorded accuracies: of the questions that a command asks, put in the same way, and of no
others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answered import record_job

from runner.config.extractors import Extractor
from runner.config.wording import PromptStyle
from runner.datasets.questions import load_questions
from runner.estimates.recorded import FinishedJobs
from runner.options.advise.accuracies import RecordedAccuracy, compare_accuracies, find_recorded_accuracies
from runner.options.advise.render.recorded_metrics import format_accuracy
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.dtypes import Dtype
from runner_base.result import Record
from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.stats import compute_wilson_interval
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

TASK = Gsm8kConfig(limit=20)
RIGHT = [True] * 7 + [False] * 13


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    return make_config(model=LocalModelConfig("embedded"), task=TASK)


def known(config: Any) -> RecordedAccuracy | None:
    return find_recorded_accuracies([config], FinishedJobs(Path(config.output_dir)))[0]


def test_a_record_of_a_version_without_a_key_has_its_default(config: Any) -> None:
    record_job(config, "mine", RIGHT)
    file = Path(config.output_dir, "jobs", "mine", "result.json")
    record = Record.from_json(file.read_text())
    for key in ("task.unscored", "task.shuffle_seed", "task.samples", "generation.temperature"):
        del record.params[key]
    file.write_text(record.to_json())
    assert known(config) is not None
    assert known(replace(config, task=replace(TASK, shuffle_seed=1))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "hard5"},
        {"offset": 1},
        {"shuffle_seed": 1},
        {"prompt": PromptStyle.text},
        {"shots": 1},
        {"instruction": "Think."},
        {"extractor": Extractor.flexible},
        {"system": "You are a teacher."},
        {"samples": 2},
    ],
)
def test_other_questions_or_the_same_put_in_another_way_do_not_count(
    config: Any, changes: dict[str, Any]
) -> None:
    greedy = GenerationConfig(max_new_tokens=24, temperature=0.7 if "samples" in changes else 0.0)
    other = replace(config, task=replace(TASK, **changes), generation=greedy)
    record_job(other, "decoy", [True] * 20)
    assert known(config) is None
    record_job(config, "mine", RIGHT)
    mine = known(config)
    assert mine is not None
    assert (mine.job_id, mine.correct, mine.n) == ("mine", 7, 20)
    assert format_accuracy(mine) == "35.0 % [18.1, 56.7] of 20"


def test_other_sampling_does_not_count_and_a_batch_size_is_free(config: Any) -> None:
    longer = replace(config, generation=GenerationConfig(max_new_tokens=48))
    record_job(longer, "longer", [True] * 20)
    assert known(config) is None
    in_batches = replace(config, generation=GenerationConfig(max_new_tokens=24, batch_size=4), seed=3)
    record_job(in_batches, "batches", RIGHT)
    assert known(config) is not None, "greedy answers do not depend on the seed"
    warm = replace(config, generation=GenerationConfig(max_new_tokens=24, temperature=0.7))
    record_job(replace(warm, seed=3), "warm", RIGHT)
    assert known(warm) is None
    assert known(replace(warm, seed=3)) is not None


def test_more_or_fewer_questions_count_on_the_shared_ones_only(config: Any) -> None:
    record_job(replace(config, task=replace(TASK, limit=60)), "more", RIGHT + [True] * 40)
    more = known(config)
    assert more is not None
    assert (more.correct, more.n, more.asked) == (7, 20, 20), "of the 60, those that the command asks"
    wide = replace(config, task=replace(TASK, limit=100))
    fewer = known(wide)
    assert fewer is not None
    assert (fewer.correct, fewer.n, fewer.asked) == (47, 60, 100)
    assert format_accuracy(fewer).endswith("of 60 of the 100")


def test_without_its_answers_a_record_counts_only_as_a_whole(config: Any) -> None:
    record_job(replace(config, task=replace(TASK, limit=60)), "more", [True] * 60, samples=False)
    assert known(config) is None
    record_job(config, "mine", RIGHT, samples=False)
    mine = known(config)
    assert mine is not None
    assert (mine.correct, mine.n, mine.answers) == (7, 20, None)
    file = Path(config.output_dir, "jobs", "mine", "result.json")
    record = Record.from_json(file.read_text())
    record.data["digest"] = "0" * 16  # a file with other content had this name
    file.write_text(record.to_json())
    assert known(config) is None


@pytest.mark.parametrize("key", ["task_version", "questions_left"])
def test_another_version_and_a_job_that_stopped_early_do_not_count(config: Any, key: str) -> None:
    record_job(config, "mine", RIGHT)
    file = Path(config.output_dir, "jobs", "mine", "result.json")
    record = Record.from_json(file.read_text())
    if key == "task_version":
        record.task_version -= 1
    else:
        record.result.metrics[key] = 80
    file.write_text(record.to_json())
    assert known(config) is None


def test_answers_that_disagree_with_the_record_are_not_used(config: Any) -> None:
    record_job(config, "mine", RIGHT)
    file = Path(config.output_dir, "jobs", "mine", "samples.jsonl")
    file.write_text(file.read_text().replace('"verdict": "wrong"', '"verdict": "correct"'))
    mine = known(config)
    assert mine is not None
    assert mine.answers is None, "a changed line has the wrong checksum"


def test_the_content_of_a_file_identifies_its_questions(config: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [f'{{"question": "{number} plus one?", "answer": {number + 1}}}\n' for number in range(20)]
    file.write_text("".join(rows))
    mine = replace(config, task=replace(TASK, data=str(file)))
    record_job(mine, "mine", RIGHT)
    assert (found := known(mine)) is not None
    assert found.n == 20
    file.write_text("".join(row.replace("plus", "and") for row in rows[:15]) + "".join(rows[15:]))
    assert (found := known(mine)) is not None
    assert (found.correct, found.n, found.asked) == (0, 5, 20), "five questions are still the same"


def test_data_of_the_hub_is_not_read_and_the_newest_record_tells_its_questions(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_the_hub(jobs: dict[str, tuple[str, int]], limit: int) -> RecordedAccuracy | None:
        for name, (word, count) in jobs.items():
            rows = [f'{{"question": "{word} {number}?", "answer": {number}}}\n' for number in range(count)]
            (tmp_path / "rows.jsonl").write_text("".join(rows))
            local = replace(config, task=replace(TASK, data=str(tmp_path / "rows.jsonl"), limit=count))
            record_job(local, name, [number % 2 == 0 for number in range(count)], started_at=name)
            file = Path(config.output_dir, "jobs", name, "result.json")
            record = Record.from_json(file.read_text())
            record.params["task.data"] = "some/questions"
            file.write_text(record.to_json())
        return known(replace(config, task=replace(TASK, data="some/questions", limit=limit)))

    monkeypatch.setattr(
        "runner.options.advise.accuracies.load_questions", lambda _: pytest.fail("the hub was asked")
    )
    assert (found := from_the_hub({"2026-1": ("old", 10)}, 10)) is not None
    assert (found.job_id, found.n) == ("2026-1", 10)
    assert (found := from_the_hub({"2026-2": ("new", 10)}, 10)) is not None
    assert (found.job_id, found.n) == ("2026-2", 10), "the data has changed since"
    assert (found := from_the_hub({}, 4)) is not None
    assert (found.n, found.asked) == (4, 4), "from one of more questions"


def test_accuracies_are_compared_in_pairs_if_the_answers_are_there(config: Any) -> None:
    other = replace(config, model=LocalModelConfig("embedded", dtype=Dtype.float32))
    record_job(config, "one", RIGHT)
    record_job(other, "other", [True] * 17 + [False] * 3)
    one, two = find_recorded_accuracies([config, other], FinishedJobs(Path(config.output_dir)))
    assert one is not None
    assert two is not None
    paired = compare_accuracies(two, one, same_model=True)
    assert paired is not None
    assert (paired.effect.counts["wins"], paired.effect.counts["losses"], paired.effect.n) == (10, 0, 20)
    alone = compare_accuracies(replace(two, answers=None), one, same_model=True)
    assert alone is not None
    assert alone.effect.counts["wins"] is None
    assert alone.effect.p > paired.effect.p
    assert one.answers is not None
    other_prompts = replace(
        one, answers={question: it._replace(prompt="x") for question, it in one.answers.items()}
    )
    assert compare_accuracies(two, other_prompts, same_model=True) is None
    assert compare_accuracies(two, other_prompts, same_model=False) is not None, (
        "two models have two chat templates"
    )
    assert compare_accuracies(replace(two, answers=None, asked=40), one, same_model=True) is None, (
        "a part, and not known which"
    )


def test_questions_in_families_count_by_families(config: Any) -> None:
    task = replace(TASK, limit=100, cluster="template")
    base, other = (
        replace(config, task=task, model=LocalModelConfig("embedded", dtype=dtype))
        for dtype in (Dtype.bfloat16, Dtype.float32)
    )
    families = [item.cluster for item in load_questions(task)]
    wrong = {it for it, _ in Counter(families).most_common(4)}  # four families are lost as a whole
    solved = [family not in wrong for family in families]
    record_job(base, "base", [True] * 100)
    record_job(other, "other", solved)
    one, two = find_recorded_accuracies([base, other], FinishedJobs(Path(config.output_dir)))
    assert one is not None
    assert two is not None
    assert two.interval == accuracy_interval(solved, families)
    assert two.interval[0] < compute_wilson_interval(sum(solved), 100)[0]
    effect = compare_accuracies(two, one, same_model=True)
    assert effect is not None
    assert effect.effect.p > 0.05, "as many independent losses would be clear"
    known_by_record = replace(two, answers=None, recorded=(two.accuracy, *two.interval))
    assert known_by_record.interval == two.interval
    assert compare_accuracies(known_by_record, one, same_model=True) is None
    few = {question: it for question, it in (one.answers or {}).items() if it.family in wrong}
    assert compare_accuracies(replace(one, answers=few), two, same_model=True) is None, (
        "a test needs six families"
    )
