"""Times from records of similar jobs, and of no others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_records import ANSWERS, SPEEDS, write

from runner.config.measures import SweepConfig
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speed import EstimateBasis
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    generation = GenerationConfig(max_new_tokens=24, batch_size=4)
    return make_config(model=LocalModelConfig("embedded"), task=Gsm8kConfig(limit=4), generation=generation)


def test_answers_are_scaled_by_their_number(config: Any) -> None:
    write(config, ANSWERS)
    more = replace(config, task=Gsm8kConfig(limit=40, split="hard5"))
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(more)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(3 + 40 * (1 + 2))
    assert estimate.source is EstimateBasis.recorded
    everything = replace(config, task=Gsm8kConfig(limit=None))
    assert FinishedJobs(Path(config.output_dir)).estimate_time_from_records(everything) is None, (
        "their number is unknown"
    )
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(everything, num_questions=7)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(3 + 7 * (1 + 2)), "the data has been read"


def test_a_beginning_that_prompts_share_is_computed_once(config: Any) -> None:
    """The measured speed is that of computed tokens: 4 prompts of 250 share 200, so 200 + 4 · 50
    were computed."""
    shared = {"prompt_tokens": 1000, "shared_prompt_tokens": 800}
    shots = replace(config, task=Gsm8kConfig(limit=4, shots=5))
    write(shots, ANSWERS | shared | {"computed_prompt_tokens": 400})
    more = replace(config, task=Gsm8kConfig(limit=40, shots=5))
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(more)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(3 + 2 + 40 * (0.5 + 2))
    write(shots, ANSWERS | shared, "of an earlier version", seconds=13.0)
    write(shots, ANSWERS | shared, "another of it", seconds=13.0)
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(more)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(3 + 40 * (0.5 + 2))
    assert FinishedJobs(Path(config.output_dir)).estimate_time_from_records(config) is None, (
        "prompts without examples are shorter"
    )


def test_other_numbers_of_rows_make_the_range_wider(config: Any) -> None:
    """Of 40 rows at once a step takes longer than of 4, but not ten times as long."""
    free = replace(config, generation=GenerationConfig(max_new_tokens=24))
    write(free, ANSWERS)
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(
        replace(free, task=Gsm8kConfig(limit=40))
    )
    assert estimate is not None
    assert estimate.seconds * (1 - estimate.spread) == pytest.approx(3 + 40 + 8)
    assert estimate.seconds * (1 + estimate.spread) == pytest.approx(3 + 40 + 80)


def test_several_answers_to_each_question_count(config: Any) -> None:
    sampling = replace(config, generation=GenerationConfig(max_new_tokens=24, batch_size=4, temperature=1.0))
    four = replace(sampling, task=Gsm8kConfig(limit=4, samples=4))
    write(four, ANSWERS | {"answers_each": 4, "new_tokens": 96})
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(four)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(15), "and not four times as long"


def test_likelihoods_have_no_new_tokens(config: Any) -> None:
    texts = replace(config, task=LikelihoodConfig(limit=4))
    write(
        texts, {"n": 4, "computed_prompt_tokens": 400, "prefill_tok_per_s": 100.0, "load_s": 3.0}, seconds=8.0
    )
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(
        replace(texts, task=LikelihoodConfig(limit=8))
    )
    assert estimate is not None
    assert estimate.seconds == pytest.approx(4 + 8 * 1)


def test_several_records_give_the_spread(config: Any) -> None:
    write(config, ANSWERS)
    write(config, ANSWERS | {"decode_tok_per_s": 2.0}, "slow")
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(config)
    assert estimate is not None
    assert estimate.spread > 0.3


def test_a_job_that_ran_beside_other_work_says_less(config: Any) -> None:
    write(config, ANSWERS, measured="beside other work that used 1.5 of 2 cores")
    estimate = FinishedJobs(Path(config.output_dir)).estimate_time_from_records(config)
    assert estimate is not None
    assert estimate.spread == 0.5


def test_another_base_another_machine_and_reused_answers_do_not_count(config: Any) -> None:
    write(config, ANSWERS, machine="a supercomputer")
    write(replace(config, quantization=CHOICES["nf4"]()), ANSWERS, "nf4")
    write(config, {key: value for key, value in ANSWERS.items() if not key.endswith("_per_s")}, "taken")
    (Path(config.output_dir) / "jobs" / "taken" / "other.json").write_text("{")
    assert FinishedJobs(Path(config.output_dir)).estimate_time_from_records(config) is None


def test_a_record_of_a_version_without_a_key_has_its_default(config: Any) -> None:
    write(config, ANSWERS)
    file = Path(config.output_dir) / "jobs" / "job" / "result.json"
    record = json.loads(file.read_text())
    for key in ("model.attention", "model.chat_template_kwargs", "task.unscored"):
        del record["params"][key]
    file.write_text(json.dumps(record))
    assert FinishedJobs(Path(config.output_dir)).estimate_time_from_records(config) is not None
    other = replace(config, model=replace(config.model, chat_template_kwargs={"enable_thinking": False}))
    assert FinishedJobs(Path(config.output_dir)).estimate_time_from_records(other) is None


def test_a_measurement_with_other_repeats_is_scaled(config: Any) -> None:
    task = SweepConfig(batch_sizes=[2], prompt_tokens=[8], repeats=3, warmup=1)
    write(replace(config, task=task), SPEEDS, seconds=11.0)
    records = FinishedJobs(Path(config.output_dir))
    estimate = records.estimate_time_from_records(replace(config, task=replace(task, repeats=7)))
    assert estimate is not None
    assert estimate.seconds == pytest.approx(3 + 2 * 8)
    assert records.estimate_time_from_records(replace(config, task=replace(task, batch_sizes=[4]))) is None


def test_only_the_newest_jobs_are_read(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write(config, ANSWERS | {"decode_tok_per_s": 10.0 + number}, f"job{number}")
        folder = Path(config.output_dir) / "jobs" / f"job{number}"
        os.utime(folder, (1000 + number, 1000 + number))
    jobs = Path(config.output_dir)
    assert len(FinishedJobs(jobs).records) == 5
    monkeypatch.setattr("runner.estimates.recorded.NEWEST", 2)
    found = FinishedJobs(jobs)
    assert [record.job_id for record in found.find_records_of_similar_jobs(config)] == ["job4", "job3"]
    monkeypatch.setattr("runner.estimates.recorded.MOST_TIMES", 1)
    estimate = found.estimate_time_from_records(config)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(15), "as long as the newest one took"
