"""The same last tokens after several contexts: against plain forward passes, left-out texts, and
what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from likely import WORDS, jsonl, model_overrides, samples, scores
from raising import raises
from transformers import AutoTokenizer

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.run import run
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.task import prepare, render_shown_prompts
from runner_base.errors import Code, ConfigError
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
LAST = 20
TEXTS = [WORDS * 2, WORDS[7:] * 3, "too short", WORDS.upper() * 2]


def job(make_config: Make, model: LocalModelConfig, folder: Path, **keys: Any) -> RunnerConfig:
    data = jsonl(folder / "texts.jsonl", [{"text": text} for text in TEXTS])
    usual: dict[str, Any] = {"data": data, "context_lengths": ["16", "64", "128"], "last_tokens": LAST}
    return make_config(model=model, task=LikelihoodConfig(**(usual | keys)))


@pytest.mark.thorough
def test_each_context_is_scored_as_by_one_plain_forward_pass(
    make_config: Make, tiny_model: LocalModelConfig, tiny_llama: Path, tmp_path: Path
) -> None:
    record = run(job(make_config, tiny_model, tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    found = samples(record)
    assert [sample.likelihood.context for sample in found] == [16, 64, 128] * 3
    for sample in found:
        scored = sample.likelihood
        ids = tokenizer(TEXTS[scored.unit])["input_ids"]
        read = ids[-LAST - scored.context :]
        after = scores(tiny_llama, read)[scored.context - 1 :]
        expected = float(after.gather(1, torch.tensor(read[scored.context :])[:, None]).sum())
        assert sample.answer.token_ids == ids[-LAST:]
        assert scored.nats == pytest.approx(expected, abs=1e-5 * LAST)
        # the control: the same tokens after one token more
        one_more = ids[-LAST - scored.context - 1 :]
        other = scores(tiny_llama, one_more)[scored.context :]
        assert scored.nats != pytest.approx(
            float(other.gather(1, torch.tensor(ids[-LAST:])[:, None]).sum()), abs=1e-4
        )
    by_context = {
        length: sum(it.likelihood.nats for it in found if it.likelihood.context == length) / (3 * LAST)
        for length in (16, 64, 128)
    }
    metrics = record.result.metrics
    for length, nats in by_context.items():
        assert metrics[f"loss_nats_per_token/context_{length}"] == pytest.approx(-nats)
    assert metrics[LOG_LIKELIHOOD] == pytest.approx(by_context[128])  # that of the longest
    assert metrics["scored_tokens"] == 3 * LAST
    assert metrics["n"] == 3
    points = dict(record.result.series["loss_by_context"])
    assert points == pytest.approx({length: -nats for length, nats in by_context.items()})


def test_a_text_that_is_too_short_is_left_out_of_all_contexts_and_named(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    record = run(job(make_config, tiny_model, tmp_path))
    note = "1 document is excluded as shorter than 148 tokens (4 documents in total, excluded: 2)"
    assert note in record.result.notes
    assert record.result.facts["context"].startswith(
        "3 documents are too few to test whether more context helps"
    )


@pytest.mark.thorough
def test_written_in_two_ways_a_context_is_one_job(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    one = run(job(make_config, tiny_model, tmp_path, context_lengths=["128", "16"]))
    other = run(job(make_config, tiny_model, tmp_path, context_lengths=[" 16", "128"]))
    assert one.job_id == other.job_id
    assert LikelihoodConfig(context_lengths=["1k", "256"]).context_lengths == ["256", "1024"]
    assert run(job(make_config, tiny_model, tmp_path, context_lengths=["17", "128"])).job_id != one.job_id


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"context_lengths": ["4M"]}, "bad_value", "task.context_lengths"),
        ({"context_lengths": ["0"]}, "bad_value", "task.context_lengths"),
        ({"context_lengths": ["1k", "1024"]}, "bad_value", "task.context_lengths"),
        ({"context_lengths": ["16"], "window": 64}, "conflict", "task.window"),
        ({"context_lengths": ["16"], "stride": 64}, "conflict", "task.stride"),
        ({"context_lengths": []}, "no_effect", "task.last_tokens"),
    ],
)
def test_keys_that_say_nothing_together_are_refused(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        LikelihoodConfig(last_tokens=LAST, **keys)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"context_lengths": ["600"], "data": "long"}, "too_large"),
        ({"context_lengths": ["300"]}, "too_large"),
        ({"data": "embedded"}, "unsupported"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_load(
    make_config: Make,
    tiny_model: LocalModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: dict[str, Any],
    code: Code,
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("runner_engine.models.base_loading.load_base_model", load)
    with raises(ConfigError, code, "task.context_lengths"):
        run(job(make_config, tiny_model, tmp_path, **keys))


def test_a_plan_shows_what_is_scored(make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path) -> None:
    config = job(make_config, tiny_model, tmp_path, show_prompt=1)
    words = render_shown_prompts(prepare(config), resolve_job(config))
    assert (
        "document 0 has no prompt: the last 20 tokens are scored with 16, 64, 128 tokens of context" in words
    )
    longer = LikelihoodConfig(context_lengths=["256", "1k"], last_tokens=20)
    assert longer.workload(config.generation)[1] == 1044  # what memory is predicted for


def test_the_divergence_from_a_reference_is_told_by_context(two: Make, tmp_path: Path) -> None:
    base = two(0)
    data = jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    keys: dict[str, Any] = {
        "data": data,
        "context_lengths": ["16", "128"],
        "last_tokens": LAST,
        "reference": model_overrides(base),
    }
    record = run(two(1, **keys, exact=True))
    metrics = record.result.metrics
    for length in (16, 128):
        of_context = [it.likelihood for it in samples(record) if it.likelihood.context == length]
        expected = math.fsum(it.kl_nats for it in of_context) / (3 * LAST)
        assert metrics[f"kl_nats_per_token/context_{length}"] == pytest.approx(expected)
    assert metrics["kl_nats_per_token"] == pytest.approx(metrics["kl_nats_per_token/context_128"])
    assert metrics["kl_nats_per_token/context_16"] != pytest.approx(metrics["kl_nats_per_token"], rel=1e-3)
