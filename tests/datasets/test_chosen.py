"""task.only and task.unscored: which questions are asked and which count, their numbers, and the
job's identity."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from likely import jsonl
from pyarrow import parquet
from raising import raises

from runner.config.resolved import resolve_job
from runner.config.wording import PromptStyle
from runner.datasets.question_prompts import load_few_shot_examples
from runner.datasets.questions import load_questions
from runner.datasets.scored_texts import load_scored_items
from runner.records.jobs import read_samples
from runner.run import read_inputs_and_identify_job, run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import ConfigError
from runner_base.result import Verdict

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
Make = Callable[..., Any]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., str]:
    def write(*entries: object, name: str = "list.txt") -> str:
        (tmp_path / name).write_text("".join(f"{entry}\n" for entry in entries))
        return str(tmp_path / name)

    return write


def numbers(task: Gsm8kConfig) -> list[int]:
    return [item.number for item in load_questions(task)]


@pytest.mark.thorough
def test_only_those_are_asked_and_keep_their_numbers(listed: Callable[..., str]) -> None:
    every = load_questions(Gsm8kConfig(limit=30))
    some = load_questions(Gsm8kConfig(only=listed(20, 3, 7), limit=2))
    assert some == [every[3], every[7]]
    assert [item.number for item in some] == [3, 7], "the limit counts what the file leaves"
    assert numbers(Gsm8kConfig(only=listed(3, 7, 20), offset=5)) == [2, 15], (
        "as without the file, after the offset"
    )
    mixed = load_questions(Gsm8kConfig(shuffle_seed=1, limit=30))
    place = mixed[12].position
    assert numbers(Gsm8kConfig(shuffle_seed=1, only=listed(place))) == [12]
    assert [item.left_out for item in every] == [False] * 30


def test_without_marks_those_that_do_not_count(listed: Callable[..., str]) -> None:
    items = load_questions(Gsm8kConfig(limit=5, unscored=listed(1, 3, 4000)))
    assert [item.left_out for item in items] == [False, True, False, True, False]
    both = Gsm8kConfig(limit=None, only=listed(1, 2, 3), unscored=listed(3, 9, name="bad.txt"))
    assert [(item.number, item.left_out) for item in load_questions(both)] == [
        (1, False),
        (2, False),
        (3, True),
    ]


def test_nothing_left_is_an_error(listed: Callable[..., str]) -> None:
    with raises(ConfigError, "empty", "task.only"):
        load_questions(Gsm8kConfig(only=listed(3), offset=50))
    with raises(ConfigError, "empty", "task.unscored"):
        load_questions(Gsm8kConfig(limit=2, unscored=listed(0, 1)))
    with raises(ConfigError, "not_found", "task.unscored"):
        load_questions(Gsm8kConfig(unscored=listed(8640)))
    with raises(ConfigError, "unsupported", "task.unscored"):
        LikelihoodConfig(unscored="x")


def test_ids_are_read_from_lines_and_from_tables(tmp_path: Path, listed: Callable[..., str]) -> None:
    rows = [{"question": f"{number}?", "answer": str(number), "ID": f"chal-{number}"} for number in range(4)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    for name in ("lines.jsonl", "table.parquet"):
        assert numbers(Gsm8kConfig(data=str(tmp_path / name), only=listed("chal-2", 0))) == [0, 2]


def test_texts_of_likelihoods_are_chosen_too(tmp_path: Path, listed: Callable[..., str]) -> None:
    data = jsonl(tmp_path / "texts.jsonl", [{"text": word} for word in ("a", "b", "c", "d")])
    given = load_scored_items(LikelihoodConfig(data=data, only=listed(3, 1)))
    assert [one.texts for one in given] == [("b",), ("d",)]
    assert [one.question for one in load_scored_items(LikelihoodConfig(only=listed(2)))] == [
        load_questions(Gsm8kConfig(limit=3))[2].question
    ]


def test_lm_evals_examples_are_drawn_as_without_the_file(tmp_path: Path, listed: Callable[..., str]) -> None:
    for split, count in (("test", 8), ("train", 9)):
        rows = [f'{{"question": "{split} {number}?", "answer": {number}}}\n' for number in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    whole = Gsm8kConfig(data=str(tmp_path), prompt=PromptStyle.lm_eval_5shot, limit=None)
    some = Gsm8kConfig(data=str(tmp_path), prompt=PromptStyle.lm_eval_5shot, only=listed(2, 6))
    all_shots, digest = load_few_shot_examples(whole, load_questions(whole))
    assert load_few_shot_examples(some, load_questions(some)) == ([all_shots[2], all_shots[6]], digest)


def test_the_choice_identifies_a_job_and_the_files_name_does_not(
    make_config: Make, listed: Callable[..., str]
) -> None:
    def job_id(**keys: Any) -> str:
        config = make_config(task=Gsm8kConfig(limit=6, **keys))
        return read_inputs_and_identify_job(resolve_job(config))[1].job_id

    plain = job_id()
    first = job_id(unscored=listed(1, 3))
    assert first == job_id(unscored=listed("# the same", 3, 1, name="other.txt"))
    assert (
        len({plain, first, job_id(unscored=listed(1)), job_id(only=listed(1)), job_id(only=listed(1, 3))})
        == 5
    )
    assert job_id(unscored=listed(1, 300)) == job_id(unscored=listed(1)), (
        "only questions that are asked matter"
    )


def test_both_scores_and_the_answers_of_the_whole_job(make_config: Make, listed: Callable[..., str]) -> None:
    whole = run(make_config(task=Gsm8kConfig(limit=6)))
    record = run(make_config(task=Gsm8kConfig(limit=6, unscored=listed(0, 1))))
    metrics = record.result.metrics
    samples = read_samples(Path(record.output_dir) / "samples.jsonl")
    assert {sample.reused_from for sample in samples.values()} == {whole.job_id}
    assert [sample.left_out for sample in samples.values()] == [True, True, False, False, False, False]
    right = [sample.answer.verdict is Verdict.correct for sample in samples.values()]
    assert (metrics["n"], metrics["correct"]) == (4, sum(right[2:]))
    assert (metrics["n_all"], metrics["correct_all"]) == (6, sum(right))
    assert (metrics["n_all"], metrics["correct_all"]) == (
        whole.result.metrics["n"],
        whole.result.metrics["correct"],
    )
    ends = ("", "_low", "_high")
    assert [metrics[f"accuracy_all{end}"] for end in ends] == [
        whole.result.metrics[f"accuracy{end}"] for end in ends
    ]
    assert metrics["prompt_tokens"] == whole.result.metrics["prompt_tokens"], "all of them were asked"
    (said,) = [note for note in record.result.notes if note.startswith(f"task.unscored={listed(0, 1)} ")]
    assert re.findall(r"\b\d+\b", said.removeprefix(f"task.unscored={listed(0, 1)} ")) == ["2", "6", "4"]
    some = run(make_config(task=Gsm8kConfig(limit=6, only=listed(4, 2))))
    assert list(read_samples(Path(some.output_dir) / "samples.jsonl")) == [2, 4]
    assert some.result.metrics["n"] == 2
    assert "n_all" not in some.result.metrics
    assert any("are reused from job" in note for note in some.result.notes), (
        "each question has kept its number"
    )
    again = run(make_config(task=Gsm8kConfig(limit=6, samples=1)))
    assert not any(
        sample.left_out for sample in read_samples(Path(again.output_dir) / "samples.jsonl").values()
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_a_plan_says_how_many_are_left(runner: Callable[..., Any], listed: Callable[..., str]) -> None:
    words = ("task=gsm8k", f"task.only={listed(1, 2, 3)}", f"task.unscored={listed(3, name='bad.txt')}")
    out = runner("model=stub", "plan=true", *words, "tracking=none").out
    assert re.search(rf"task\.only={re.escape(listed(1, 2, 3))}: .* 3 questions", out)
    assert re.search(r"bad\.txt .* 1 of 3 questions\..* 2\b", out)


@pytest.mark.thorough
@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the real GSM8K is not at {GSM8K}")
def test_hashes_of_the_real_questions(listed: Callable[..., str]) -> None:
    whole = load_questions(Gsm8kConfig(data=str(GSM8K), limit=None))
    from runner.datasets.question_lists import hash_question_text

    bad = [item for item in whole if item.position % 12 == 0]
    task = Gsm8kConfig(
        data=str(GSM8K), limit=None, unscored=listed(*(hash_question_text(item.question) for item in bad))
    )
    assert [item.position for item in load_questions(task) if item.left_out] == [
        item.position for item in bad
    ]
