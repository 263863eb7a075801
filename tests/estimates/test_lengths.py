"""Times of jobs with long texts: from records with other lengths, and from measured passes, which
are short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_records import SPEEDS, write

from runner.config.resolved import resolve_job
from runner.config.task import RequestedCompletions
from runner.estimates.context_costs import LengthCosts, compute_context_length_costs
from runner.estimates.jobs import add_attention_cost, estimate_memory_and_time
from runner.estimates.recorded import FinishedJobs
from runner.estimates.sample import build_model_for_speed_calibration
from runner.estimates.speed import Estimate, EstimateBasis, Speed
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.recall.keys import RecallConfig
from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig, RopeConfig, RopeYarnConfig

Make = Callable[..., Any]
# 1,024 tokens before a token cost as much as its products
COSTS = LengthCosts(pair_share=1 / 1024, place_share=0.0)
ROWS = GenerationConfig(max_new_tokens=24, batch_size=4)
LOAD_S = SPEEDS["load_s"]


@pytest.fixture
def config(make_config: Make) -> Any:
    task = RecallConfig(lengths=["1k"], kinds=["several_asked_one"], cases=2)
    return make_config(model=LocalModelConfig("embedded", device="cpu"), task=task, generation=ROWS)


def recorded(config: Any, task: Any, name: str = "job") -> None:
    """Write a job that loaded in 3 s, and took 100 s to read its prompts and 4 s to decode 44
    tokens after 4 first."""
    count = task.expected_completions if isinstance(task, RecallConfig) else task.limit
    reads = {"prompt_tokens": 10_000, "computed_prompt_tokens": 10_000, "new_tokens": 40 + count}
    write(replace(config, task=task), SPEEDS | reads | {"n": count}, name, seconds=LOAD_S + 104)


def planned(config: Any, task: Any, costs: LengthCosts = COSTS) -> Estimate | None:
    return FinishedJobs(Path(config.output_dir)).estimate_time_from_records(
        replace(config, task=task), length_costs=costs
    )


def ends(found: Estimate | None) -> tuple[float, float]:
    assert found is not None
    assert found.source is EstimateBasis.recorded
    return found.seconds * (1 - found.spread), found.seconds * (1 + found.spread)


def work(task: Any, pair_share: float) -> float:
    return sum(
        amount.computed_prompt_tokens + pair_share * amount.num_attention_pairs
        for amount in task.list_requested_completions(ROWS)
    )


def test_the_same_lengths_take_as_long_per_case(config: Any) -> None:
    recorded(config, config.task)
    found = planned(config, replace(config.task, cases=6, cases_seed=1))
    assert found is not None
    assert found.seconds == pytest.approx(LOAD_S + 3 * (100 + 4))
    assert found.spread == 0.2


def test_longer_texts_are_read_longer_and_each_token_looks_back_further(config: Any) -> None:
    recorded(config, config.task)
    longer = replace(config.task, lengths=["4k"])
    low, high = ends(planned(config, longer))
    for pair_share in (COSTS.pair_share / 1.5, COSTS.pair_share * 1.5):
        seconds = LOAD_S + 4 + 100 * work(longer, pair_share) / work(config.task, pair_share)
        assert low <= seconds <= high
    assert high > LOAD_S + 4 + 8 * 100, "four times the tokens take more than four times as long"
    _, without = ends(planned(config, longer, LengthCosts()))
    assert without < LOAD_S + 4 + 6 * 100, "as if attention cost nothing"


def test_a_record_of_several_lengths_tells_of_each(config: Any) -> None:
    recorded(config, replace(config.task, lengths=["512", "2k"], depths=[0.25, 0.5]))
    shorter, longer = (planned(config, replace(config.task, lengths=[length])) for length in ("512", "2k"))
    assert shorter is not None
    assert longer is not None
    assert shorter.seconds < LOAD_S + 50 < longer.seconds


def test_other_questions_and_unknown_sizes_tell_nothing(config: Any) -> None:
    recorded(config, config.task)
    assert planned(config, replace(config.task, kinds=["count"])) is None, "its answers have other lengths"
    assert planned(config, LikelihoodConfig(limit=4)) is None
    for key, value in {"task.lengths": "[", "task.cases": "many", "task.depths": "3"}.items():
        records = FinishedJobs(Path(config.output_dir))
        records.records[0].params[key] = value
        assert records.estimate_time_from_records(config) is None, (key, value)


def test_a_scaling_of_rope_changes_no_time(config: Any) -> None:
    recorded(config, config.task)
    assert planned(replace(config, rope=RopeYarnConfig(factor=2)), config.task) is not None
    assert planned(replace(config, rope=RopeConfig(beyond_trained=True)), config.task) is not None
    assert planned(replace(config, rope=Rope2dConfig()), config.task) is None, "it is computed in another way"
    scaled = replace(config, rope=RopeYarnConfig(factor=4))
    assert FinishedJobs(Path(config.output_dir)).same_base_records(scaled) == [], "its answers are others"


def test_contexts_are_told_from_windows_and_from_each_other(config: Any) -> None:
    of_contexts = LikelihoodConfig(limit=4, context_lengths=["1k"], last_tokens=64)
    recorded(config, of_contexts)
    assert planned(config, LikelihoodConfig(limit=4)) is None
    one, both = (
        planned(config, replace(of_contexts, context_lengths=lengths)) for lengths in (["4k"], ["1k", "4k"])
    )
    assert one is not None
    assert both is not None
    assert one.seconds > LOAD_S + 400
    assert both.seconds == pytest.approx(one.seconds + 100, rel=0.1)
    twice = planned(config, replace(of_contexts, limit=8))
    assert twice is not None
    assert twice.seconds == pytest.approx(LOAD_S + 200, rel=0.05)


def test_long_texts_are_read_in_windows_with_some_tokens_read_again() -> None:
    task = LikelihoodConfig(window="4k", limit=3)
    (typical,) = task.list_requested_completions(ROWS)
    assert typical.prompt_tokens == 256, "texts are not read yet"
    task.text_bytes = [
        38 * 1024
    ] * 3  # 10k tokens: a first window, and three times 2k further on, which read 4k each
    (amount,) = task.list_requested_completions(ROWS)
    assert (amount.completions, amount.prompt_tokens, amount.piece_tokens) == (3, 16 * 1024, 4096)
    assert amount.num_attention_pairs == 3 * 16 * 1024 * 2048
    task.text_bytes = [380] * 3
    (short,) = task.list_requested_completions(ROWS)
    assert (short.prompt_tokens, short.piece_tokens) == (100, 100)


def test_measured_passes_are_short_and_long_prompts_take_more(make_config: Make) -> None:
    speed = Speed(prefill=[(8.0, 0.01), (256.0, 0.256)], decode=[(1.0, 0.01)], pass_tokens=256)
    knows = add_attention_cost(speed, COSTS)
    amount = RequestedCompletions(1, 4096, 1, 2, known_tokens=1024)
    flat = speed.estimate_seconds(amount, 1)
    assert flat == pytest.approx(2 * 4.096)
    assert knows.estimate_seconds(amount, 1) == pytest.approx(flat * (1 + (1024 + 2048) / 1024))
    config = make_config(model=LocalModelConfig("embedded", device="cpu"), task=RecallConfig(lengths=["1k"]))
    resolved = resolve_job(config)
    time = estimate_memory_and_time({0: resolved}, Path(config.output_dir), should_calibrate=False)[0]
    assert time.fit is not None
    costs = compute_context_length_costs(resolved, time.fit.predicted)
    settings = resolved.model.files.text_settings
    linear = sum(it.num_elements for it in resolved.model.files.tensors if "_proj" in it.name)
    expected = 2 * settings["num_hidden_layers"] * settings["hidden_size"] / linear
    assert costs.pair_share == pytest.approx(expected, rel=0.02)


def test_what_is_timed_is_a_folder_with_the_models_own_rope(make_config: Make) -> None:
    resolved = resolve_job(make_config(model=LocalModelConfig("embedded", device="cpu")))
    native = build_model_for_speed_calibration(resolved, 6.0)
    scaled = build_model_for_speed_calibration(
        replace(resolved, config=replace(resolved.config, rope=RopeYarnConfig(factor=2))), 6.0
    )
    other = build_model_for_speed_calibration(
        replace(resolved, config=replace(resolved.config, rope=Rope2dConfig())), 6.0
    )
    assert native is not None
    assert scaled is not None
    assert other is not None
    assert native.key == scaled.key != other.key
    of_file = replace(resolved, config=replace(resolved.config, quantization=CHOICES["gguf"]()))
    assert build_model_for_speed_calibration(of_file, 6.0) is None, "no sample can be written as such a file"
