"""Likelihoods of given texts on real tiny models: against plain forward passes, windows,
references, and resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from likely import PAIRS, WORDS, jsonl, model_overrides, samples, scores
from raising import raises
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.config.wording import PromptStyle
from runner.records.top_k import TOP_K, TopK, TopKFile, read_top_k_file
from runner.report import format_headline_metrics
from runner.run import run
from runner.tasks.likelihood import task as likelihood
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.named_job import MODEL_GROUPS, apply_overrides_from_text
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError, RunRecordError
from runner_base.result import Status
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]


@pytest.mark.thorough
def test_pairs_score_as_one_plain_forward_pass(
    make_config: Make, tiny_model: LocalModelConfig, tiny_llama: Path, tmp_path: Path
) -> None:
    record = run(
        make_config(model=tiny_model, task=LikelihoodConfig(data=jsonl(tmp_path / "p.jsonl", PAIRS)))
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    total = 0.0
    for row, sample in zip(PAIRS, samples(record), strict=True):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["continuation"])["input_ids"]
        after = scores(tiny_llama, ids)[len(prompt) - 1 :]
        expected = after.gather(1, torch.tensor(ids[len(prompt) :])[:, None])
        it = sample.likelihood
        assert (sample.question, sample.gold) == (row["prompt"], row["continuation"])
        assert (it.tokens, it.bytes, it.characters) == (
            len(ids) - len(prompt),
            *[len(row["continuation"])] * 2,
        )
        assert it.nats == pytest.approx(float(expected.sum()), abs=1e-5 * it.tokens)
        assert it.rank_1 == int((after.argmax(dim=-1) == torch.tensor(ids[len(prompt) :])).sum())
        total += it.nats
    metrics = record.result.metrics
    tokens = sum(len(row["continuation"]) for row in PAIRS)  # a byte is a token of this tokenizer
    assert metrics[LOG_LIKELIHOOD] == pytest.approx(total / tokens)
    assert metrics["bits_per_byte"] == pytest.approx(-total / tokens / math.log(2))
    assert metrics["perplexity"] == pytest.approx(math.exp(-total / tokens))
    assert not {"perplexity_low", f"{LOG_LIKELIHOOD}_low"} & metrics.keys(), "of few texts"


def reference_perplexity(folder: Path, text: str, window: int, stride: int) -> float:
    """Perplexity by sliding windows as transformers' guide defines it, weighted by the tokens that
    count."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    total, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        inputs = ids[:, begin:end]
        targets = inputs.clone()
        targets[:, : -(end - before)] = -100
        with torch.no_grad():
            mean = model(inputs, labels=targets).loss
        valid = int((targets[:, 1:] != -100).sum())
        total, count, before = total + float(mean) * valid, count + valid, end
        if end == ids.shape[1]:
            break
    return math.exp(total / count)


@pytest.mark.thorough
@pytest.mark.parametrize(("window", "stride"), [(64, 32), (50, 49), (40, 7), (1000, None)])
def test_a_texts_perplexity_is_that_of_sliding_windows(
    make_config: Make,
    tiny_model: LocalModelConfig,
    tiny_llama: Path,
    tmp_path: Path,
    window: int,
    stride: int | None,
) -> None:
    text = WORDS * 3
    (tmp_path / "text.txt").write_text(text)
    task = LikelihoodConfig(data=str(tmp_path / "text.txt"), window=window, stride=stride)
    record = run(make_config(model=tiny_model, task=task))
    expected = reference_perplexity(tiny_llama, text, window, stride or window // 2)
    metrics = record.result.metrics
    assert metrics["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert (metrics["scored_tokens"], metrics["scored_bytes"]) == (len(text) - 1, len(text) - 1)
    assert any("only one document" in note for note in record.result.notes)


def test_the_windows_of_one_of_several_texts_are_one_sample(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    rows = [{"text": WORDS * 2}, {"text": WORDS}]
    task = LikelihoodConfig(data=jsonl(tmp_path / "t.jsonl", rows), window=60, stride=30)
    record = run(make_config(model=tiny_model, task=task))
    assert record.result.metrics["n"] == 2
    assert [sample.likelihood.unit for sample in samples(record)].count(0) > 2
    assert record.result.metrics["scored_tokens"] == 3 * len(WORDS) - 2


def test_windows_longer_than_the_model_reads_are_refused(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(WORDS * 10)
    config = make_config(model=tiny_model, task=LikelihoodConfig(data=str(tmp_path / "text.txt"), window=700))
    with raises(ConfigError, "too_large", "task.window"):
        run(config)


# -------------------------------------------------------------------------------------- a reference


def as_before_tokens_were_drawn(path: Path) -> None:
    """Write a file of kept tokens as earlier versions did."""
    kept = read_top_k_file(path)
    path.unlink()
    file = TopKFile(path.parent)
    for index, one in kept.items():
        file.append_sample(index, TopK(one.width, one.ids, one.logprobs))
    file.close()
    assert "drawn" not in path.read_text()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("is_drawn", [True, False])
def test_the_divergence_from_kept_tokens_is_as_near_to_the_exact_one_as_it_says(
    two: Callable[..., RunnerConfig], is_drawn: bool
) -> None:
    reference = run(two(1, keep_top_k=64))
    if not is_drawn:
        as_before_tokens_were_drawn(Path(reference.output_dir) / TOP_K)
    record = run(two(0, reference=model_overrides(two(1)), exact=False))
    kl, agreed = 0.0, 0
    kept = read_top_k_file(Path(reference.output_dir) / TOP_K)
    for row, sample, theirs in zip(PAIRS, samples(record), samples(reference), strict=True):
        assert sample.answer.token_ids == theirs.answer.token_ids
        tokenizer = AutoTokenizer.from_pretrained(two(0).model.name)
        ids = tokenizer(row["prompt"] + row["continuation"])["input_ids"]
        begin = len(ids) - len(sample.answer.token_ids) - 1
        q, p = (scores(Path(two(which).model.name), ids)[begin:].double() for which in (0, 1))
        exact = float((p.exp() * (p - q)).sum())
        it = sample.likelihood
        error = 4 * math.sqrt(it.kl_variance) + 1e-4
        assert it.kl_nats - error <= exact <= it.kl_nats + it.truncation_nats + error
        assert (it.kl_variance > 0, it.truncation_nats > 0) == (is_drawn, not is_drawn)
        same = int((p.argmax(dim=-1) == q.argmax(dim=-1)).sum())
        assert it.top_1_agreed == same
        assert kept[sample.index].width == 64
        torch.testing.assert_close(
            torch.tensor(kept[sample.index].logprobs.tolist()),
            p.topk(64).values.float().flatten(),
            atol=1e-4,
            rtol=0,
        )
        kl, agreed = kl + exact, agreed + same
    metrics = record.result.metrics
    variance = sum(sample.likelihood.kl_variance for sample in samples(record))
    error = 4 * math.sqrt(variance) / metrics["scored_tokens"]
    more = metrics["kl_truncation_nats_per_token"]
    low, high = metrics["kl_nats_per_token"] - error, metrics["kl_nats_per_token"] + error + more
    assert 0 < low <= kl / metrics["scored_tokens"] <= high
    assert not metrics.get("kl_drawing_error_nats_per_token"), "of few tokens"
    assert (metrics.get("kl_drawn_tokens"), "too few for ±" in format_headline_metrics(metrics)["KL"]) == (
        (metrics["scored_tokens"], True) if is_drawn else (None, False)
    )
    assert ("at most" in format_headline_metrics(metrics)["KL"]) == (not is_drawn)
    assert metrics["top_1_agreement"] == agreed / metrics["scored_tokens"]


@pytest.mark.thorough
def test_a_job_that_is_its_own_reference_is_the_job_without_one(two: Callable[..., RunnerConfig]) -> None:
    config = two(1, keep_top_k=64)
    named_itself = two(1, keep_top_k=64, reference=model_overrides(config))
    assert likelihood.prepare(named_itself).hashes == likelihood.prepare(config).hashes
    config = two(0, keep_top_k=64, reference=model_overrides(config), exact=False)
    other = likelihood.prepare(config)
    assert other.after == other.hashes["reference"]
    told = [likelihood.preview(other, resolve_job(config))]
    assert run(named_itself).job_id == other.after
    told.append(likelihood.preview(other, resolve_job(config)))
    assert [words.rpartition(", ")[2] for words in told] == ["must run first", "done"]


@pytest.mark.slow
def test_a_reference_that_is_not_there_is_refused_with_what_to_run(two: Callable[..., RunnerConfig]) -> None:
    with raises(ConfigError, "not_found", "task.reference"):
        run(two(0, reference=model_overrides(two(1)), exact=False))
    with raises(ConfigError, "not_found", "task.reference"):
        run(two(0, reference="likelihood-0123456789ab"))
    without = run(two(1))
    with raises(ConfigError, "missing", "task.reference"):
        run(two(0, reference=without.job_id))
    kept = run(two(1, keep_top_k=4))
    with raises(ConfigError, "not_found", "task.reference") as refused:
        run(two(0, reference="likelihood-0123456789ab"))
    assert kept.job_id in refused.value.reason
    assert run(two(0, reference=kept.job_id)).result.metrics["kl_drawn_tokens"] > 0


def test_a_reference_on_other_texts_is_refused(two: Callable[..., RunnerConfig]) -> None:
    kept = run(two(1, keep_top_k=4, limit=2))
    with raises(ConfigError, "mismatch", "task.reference"):
        run(two(0, reference=kept.job_id))


@pytest.mark.parametrize(
    "words",
    [
        "quantization=nf5",
        "quantisation=none",
        "model.dtype=float33",
        "generation.temperature=1",
        "quantization=nf4 quantization.double=1",
    ],
)
def test_overrides_of_a_reference_are_checked(two: Callable[..., RunnerConfig], words: str) -> None:
    with raises(ConfigError, "unknown_choice", "task.reference"):
        likelihood.prepare(two(0, reference=words))


def test_a_key_alone_changes_the_jobs_own_choice(two: Callable[..., RunnerConfig]) -> None:
    plain = two(0)
    assert isinstance(plain.model, LocalModelConfig)
    config = replace(plain, model=replace(plain.model, threads=1))
    other = apply_overrides_from_text(config, "task.reference", "model.dtype=bfloat16", MODEL_GROUPS)
    assert other.model == replace(plain.model, threads=1, dtype=Dtype.bfloat16), (
        "also its name and its threads stay"
    )
    assert replace(other, model=config.model) == config


@pytest.mark.thorough
@pytest.mark.parametrize("exact", [False, True])
def test_a_kv_cache_in_8_bits_is_compared_with_that_of_the_model(
    two: Callable[..., RunnerConfig], exact: bool
) -> None:
    plain = "generation.kv_cache=as_model"
    eight = replace(two(0), generation=replace(two(0).generation, kv_cache=KvCache.int8))
    if not exact:
        assert run(two(0, keep_top_k=16)).status is Status.FINISHED
    keys = {"reference": plain, "keep_top_k": 16, "exact": exact}
    compared = run(replace(eight, task=two(0, **keys).task))
    assert plain in compared.result.facts["reference"]
    assert 0 < compared.result.metrics["kl_nats_per_token"] < 0.01, "8 bits change little, and something"
    assert "kl_nats_per_token" not in run(two(0, **keys)).result.metrics, "it is its own reference"


# ----------------------------------------------------------------------------------------- going on


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupted_job_goes_on_and_comes_to_the_same(two: Callable[..., RunnerConfig]) -> None:
    run(two(1, keep_top_k=8))
    config = two(0, keep_top_k=8, reference=model_overrides(two(1)), exact=False)
    whole = run(config)
    folder = Path(whole.output_dir)
    before = {name: (folder / name).read_text() for name in ("samples.jsonl", TOP_K)}
    (folder / "result.json").unlink()
    lines = before["samples.jsonl"].splitlines(keepends=True)
    # killed while it wrote the second one
    (folder / "samples.jsonl").write_text(lines[0] + lines[1][:40])
    again = run(config)
    assert again.status is Status.FINISHED
    assert any("1 of 3 samples come from an earlier" in note for note in again.result.notes)
    measured = (LOG_LIKELIHOOD, "perplexity", "kl_nats_per_token", "top_1_agreement", "n")
    assert [again.result.metrics[name] for name in measured] == pytest.approx(
        [whole.result.metrics[name] for name in measured]
    )
    assert set(read_top_k_file(folder / TOP_K)) == {0, 1, 2}


@pytest.mark.thorough
def test_samples_that_are_not_this_jobs_are_refused(two: Callable[..., RunnerConfig]) -> None:
    config = two(0, keep_top_k=8)
    folder = Path(run(config).output_dir)
    (folder / "result.json").unlink()
    kept = (folder / TOP_K).read_text().splitlines(keepends=True)
    (folder / TOP_K).write_text("".join(kept[:2]))
    with raises(RunRecordError, "damaged"):
        run(config)
    other = run(two(1))
    (folder / "samples.jsonl").write_text(
        (Path(other.output_dir) / "samples.jsonl").read_text().replace("dog", "cat")
    )
    with raises(RunRecordError, "damaged"):
        run(config)


# ------------------------------------------------------------------------------------ keys and data


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"prompt": PromptStyle.lm_eval_5shot}, "unknown_choice", "task.prompt"),
        ({"window": 1}, "bad_value", "task.window"),
        ({"window": "4M"}, "bad_value", "task.window"),
        ({"window": 8, "stride": 8}, "bad_value", "task.stride"),
        ({"stride": 0}, "bad_value", "task.stride"),
        ({"keep_top_k": -1}, "bad_value", "task.keep_top_k"),
        ({"reference": " "}, "bad_value", "task.reference"),
        ({"repeat_index": -1}, "bad_value", "task.repeat_index"),
        ({"repeat_index": 1, "reference": "lora=none"}, "conflict", "task.repeat_index"),
        ({"prompt": PromptStyle.text, "system": "x"}, "conflict", ""),
    ],
)
def test_keys_are_checked(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        LikelihoodConfig(**keys)


def test_thousands_of_tokens_are_the_same_job(make_config: Make) -> None:
    def keys(**given: Any) -> dict[str, Any]:
        return dict(iterate_job_id_keys(make_config(task=LikelihoodConfig(**given))))

    assert keys(window="4k", stride="1K") == keys(window=4096, stride=1024) != keys(window=4000, stride=1024)
    contexts = {"context_lengths": ["4k"]}
    assert keys(last_tokens="1k", **contexts) == keys(last_tokens="1024", **contexts) != keys(**contexts)
    assert keys(window="1k", last_tokens=256) == keys(), "the defaults, in other words"


@pytest.mark.thorough
def test_choices_are_told_apart_by_their_likelihood(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    rows = [{"prompt": "The sky is", "choices": [" blue", " a green and very long one", " é"], "gold": 0}] * 2
    record = run(make_config(model=tiny_model, task=LikelihoodConfig(data=jsonl(tmp_path / "c.jsonl", rows))))
    found = [sample.likelihood for sample in samples(record)]
    assert [it.is_other for it in found] == [False, True, True] * 2
    assert [(it.characters, it.bytes) for it in found[:3]] == [(5, 5), (26, 26), (2, 3)]
    metrics = record.result.metrics
    assert metrics["n"] == 2
    assert metrics[LOG_LIKELIHOOD] == pytest.approx(found[0].nats / 5)  # of the right choice
    best = max(found[:3], key=lambda it: it.nats)
    assert metrics["acc"] == float(best is found[0])
    longest = max(found[:3], key=lambda it: it.nats / it.characters)
    assert metrics["acc_norm"] == float(longest is found[0])


def test_gold_answers_follow_their_questions_as_gsm8k_puts_them(make_config: Make) -> None:
    record = run(make_config(task=LikelihoodConfig(limit=2, prompt=PromptStyle.text)))  # the stub
    first = samples(record)[0]
    assert (first.question, first.gold.splitlines()[-1][:5]) == (first.question, "#### ")
    assert first.likelihood.bytes == len(first.gold) + 1  # apart from the prompt by a space
    assert record.result.metrics[LOG_LIKELIHOOD] == -1


def test_a_repeat_scores_in_another_order_as_a_job_of_its_own(make_config: Make) -> None:
    first, again = (
        run(make_config(task=LikelihoodConfig(limit=6, repeat_index=repeat))) for repeat in (0, 1)
    )
    assert first.job_id != again.job_id
    files = [Path(it.output_dir) / "samples.jsonl" for it in (first, again)]
    orders = [[json.loads(line)["index"] for line in file.read_text().splitlines()] for file in files]
    assert orders[0] == sorted(orders[1]) == list(range(6))
    assert orders[1] != orders[0]
    key = "log_likelihood_nats_per_token"
    assert again.result.metrics[key] == pytest.approx(first.result.metrics[key], rel=0.01)
    assert not any("are reused from job" in note for note in again.result.notes)
