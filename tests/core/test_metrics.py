"""The list of metrics as a whole: it describes all that real jobs write, and is consistent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from options_here import absent

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.render.job_lines import LINES, OF_GRID, select_grid_table_metrics
from runner.report import format_headline_metrics
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_compare.features.front.compute import FRONT
from runner_compare.metrics import (
    SPREADS,
    BetterDirection,
    PoolingRule,
    find_metric,
    format_number,
    known_metrics,
    pool_metrics,
)
from runner_compare.render.columns import HEADLINES, OF_SCORED
from runner_compare.ways.repeats import BY_REPEATS
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PthConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

Make = Callable[..., RunnerConfig]
EMBEDDED = LocalModelConfig(name="embedded", device="cpu")
SHORT = GenerationConfig(max_new_tokens=4)


def undescribed(metrics: dict[str, float]) -> set[str]:
    """Return the metrics that are not in the list."""
    return {key for key in metrics if find_metric(key).key not in known_metrics()}


@pytest.mark.parametrize(
    "task",
    [
        Gsm8kConfig(limit=1),
        GenerateConfig(prompt="2+3=?"),
        SweepConfig(batch_sizes=[1], prompt_tokens=[4], new_tokens=2, repeats=2, warmup=0),
        MemoryConfig(batch_size=1, prompt_tokens=4, new_tokens=2, repeats=1),
    ],
    ids=lambda task: task.name,
)
def test_a_job_of_the_stub_writes_described_metrics(make_config: Make, task: TaskConfig) -> None:
    metrics = run(make_config(task=task)).result.metrics
    assert len(metrics) > 5
    assert undescribed(metrics) == set()


def test_a_loaded_model_reports_described_metrics(make_config: Make) -> None:
    lora = PthConfig(path="embedded")
    groups: dict[str, Any] = {
        "quantization": Int8Config(),
        "lora": lora,
        "rope": Rope2dConfig(),
        "generation": SHORT,
    }
    metrics = run(make_config(model=EMBEDDED, task=GenerateConfig(prompt="2+3=?"), **groups)).result.metrics
    assert "weight_mib/int8" in metrics
    assert undescribed(metrics) == set()


def test_what_stands_in_tables_is_described() -> None:
    named = {*OF_GRID, *OF_SCORED, *HEADLINES, *BY_REPEATS}.union(FRONT)
    named = named.union(*(line.metric_names for line in LINES))
    undescribed = {find_metric(name).key for name in named} - known_metrics().keys()
    assert not undescribed or absent(), "an option describes its own metrics"
    assert all(known_metrics()[key].better is not BetterDirection.neither for key in FRONT)
    for metric in known_metrics().values():
        assert (
            metric.tokens in known_metrics()
            if metric.pooling in (PoolingRule.per_token, PoolingRule.weighted)
            else metric.tokens == ""
        )


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("decode_tok_per_s/batch_4_prompt_64", "decode_tok_per_s"),
        ("decode_tok_per_s_max/batch_4_prompt_64", "decode_tok_per_s"),
        ("peak_rss_mib_min", "peak_rss_mib"),
        ("weight_mib/bfloat16", "weight_mib"),
    ],
)
def test_cells_and_spreads_are_their_base_metric(key: str, base: str) -> None:
    assert find_metric(key) is known_metrics()[base]
    assert not any(base.endswith(suffix) for base in known_metrics() for suffix in SPREADS)


def test_a_metric_of_somebody_elses_task_is_described_by_its_unit() -> None:
    metric = find_metric("reasoning_tok_per_s/hard")
    assert (metric.key, metric.title, metric.better) == (
        "reasoning_tok_per_s",
        "reasoning tok/s",
        BetterDirection.higher,
    )
    assert find_metric("cache_mib").pooling is PoolingRule.max
    assert find_metric("rounds").better is BetterDirection.neither


def test_labels_for_columns_and_axes() -> None:
    peak, speed, cut_off = (known_metrics()[key] for key in ("peak_rss_mib", "decode_tok_per_s", "cut_off"))
    assert (peak.title, peak.head, peak.axis_label) == ("peak RSS MiB", "peak RSS\nMiB", "peak RSS, MiB")
    assert (speed.title, speed.head, speed.axis_label) == ("decode tok/s", "decode\ntok/s", "decode tokens/s")
    assert (cut_off.title, cut_off.head, cut_off.axis_label) == ("cut off", "cut\noff", "cut off")
    heads = [metric.title for metric in known_metrics().values()]
    assert len(set(heads)) == len(heads)
    assert not any(re.search(r"_|  ", head) for head in heads)


def test_runs_are_pooled_by_each_metrics_own_rule() -> None:
    one = {"n": 10, "correct": 9, "new_tokens": 100, "decode_tok_per_s": 100, "peak_rss_mib": 5, "load_s": 1}
    two = {"n": 30, "correct": 3, "new_tokens": 300, "decode_tok_per_s": 300, "peak_rss_mib": 7, "load_s": 2}
    pooled = pool_metrics([one | {"accuracy": 0.9, "wrong": 1}, two | {"accuracy": 0.1}])
    assert pooled == {
        "n": 40,
        "correct": 12,
        "accuracy": 0.3,
        "new_tokens": 400,
        "decode_tok_per_s": pytest.approx(200),  # 400 tokens in 2 s
        "peak_rss_mib": 7,
        "load_s": 1.5,
    }
    # one has no speed to weigh by
    assert pool_metrics([one | {"decode_tok_per_s": 0}, two])["decode_tok_per_s"] == 150


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (12345678.0, "12,345,678"),
        (1234.56, "1,234.6"),
        (0.01234, "0.01234"),
        (float("inf"), "inf"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert format_number(value) == text


def test_one_answer_is_no_answers() -> None:
    values = {"student_answers": 1.0, "student_calls": 1.0, "student_new_tokens": 2001.0}
    assert format_headline_metrics(values)["student"] == "1 answer · 1 call · 2,001 new tokens"
    values = {"requests": 1.0, "answered": 1.0, "refused": 0.0, "clients_left": 1.0, "client_errors": 1.0,
              "server_errors": 0.0}  # fmt: skip
    assert (
        format_headline_metrics(values)["requests"]
        == "1 in total · 1 answered · 0 refused · 1 cancelled by the client · 1 invalid · 0 failed"
    )
    values = {
        "accuracy/strict": 1.0,
        "accuracy/flexible": 1.0,
        "extractors_differ": 1.0,
        "stopped_by_length": 11.0,
    }
    assert (
        "· 1 verdict differs · 11 ended at the token limit" in format_headline_metrics(values)["extraction"]
    )


def test_a_speed_of_decoding_is_shown_only_where_something_was_decoded() -> None:
    # as earlier versions recorded it
    values = {"prefill_tok_per_s": 5000.0, "decode_tok_per_s": 0.0}
    assert format_headline_metrics(values)["speed"] == "prefill 5,000 tok/s"
    assert (
        format_headline_metrics(values | {"decode_tok_per_s": 12.0})["speed"]
        == "decode 12 tok/s · prefill 5,000 tok/s"
    )


def test_a_grid_shows_one_right_of_all_answers_and_their_vote_beside_the_questions() -> None:
    single = {"n": 5.0, "correct": 3.0, "decode_tok_per_s": 3.0}
    several = {**single, "answers_each": 4.0, "pass_at_k/1": 0.5, "pass_at_k/4": 0.8, "maj_at_k/4": 0.6}
    titles = [
        it.title for it in select_grid_table_metrics([single, several, {**several, "answers_each": 1.0}])
    ]
    assert titles == ["questions", "pass@4", "maj@4", "decode tok/s"]
    assert [it.title for it in select_grid_table_metrics([single])] == ["questions", "decode tok/s"]
    assert find_metric("pass_hat_k/8").title == "pass^8"
