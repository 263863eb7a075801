"""A model and its reference side by side: whole distributions against plain float64, memory for
both, early refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from likely import PAIRS, WORDS, jsonl, model_overrides, samples, scores
from raising import raises
from transformers import AutoTokenizer

from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines import kinds
from runner.records.divergences import DIVERGENCES, read_divergences
from runner.report import format_headline_metrics
from runner.run import run
from runner.tasks.likelihood import paired_engine as side_by_side
from runner.tasks.likelihood import task as likelihood
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.paired_engine import DocumentProgress, ReferenceDistributions
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import Status
from runner_engine.plan.footprint import predict_footprint
from runner_engine.plan.load_plan import plan_model_load
from runner_engine.plan.memory_check import check_memory
from runner_engine.settings.model import Attention, LocalModelConfig

Two = Callable[..., RunnerConfig]


def exact_kl(two: Two, row: dict[str, str], places: int) -> tuple[float, int]:
    """KL(reference || this) and equal first choices over a continuation, in float64 by transformers
    alone."""
    tokenizer = AutoTokenizer.from_pretrained(two(0).model.name)
    ids = tokenizer(row["prompt"] + row["continuation"])["input_ids"]
    q, p = (scores(Path(two(which).model.name), ids, "float64")[-places:] for which in (0, 1))
    return float((p.exp() * (p - q)).sum()), int((p.argmax(dim=-1) == q.argmax(dim=-1)).sum())


def probabilities(two: Two, row: dict[str, str], ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The probabilities of a continuation's tokens under the reference and under this model, by
    transformers alone."""
    whole = AutoTokenizer.from_pretrained(two(0).model.name)(row["prompt"] + row["continuation"])["input_ids"]
    both = (scores(Path(two(which).model.name), whole, "float64")[-len(ids) :] for which in (1, 0))
    p, q = (one.exp().gather(1, torch.tensor(ids)[:, None])[:, 0] for one in both)
    return p, q


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("places", [None, 7])
def test_the_divergence_is_that_of_plain_float64_and_as_near_to_the_kept_one_as_that_says(
    two: Two, places: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if places is not None:  # so few may wait that the longest text is read six times
        monkeypatch.setattr(side_by_side, "compute_max_queued_distributions", lambda _: places)
    run(two(1, keep_top_k=16))
    kept = run(two(0, reference=model_overrides(two(1)), keep_top_k=16, exact=False))
    record = run(two(0, reference=model_overrides(two(1)), keep_top_k=16, exact=True))
    kl, agreed = 0.0, 0
    for row, sample, cut_off in zip(PAIRS, samples(record), samples(kept), strict=True):
        expected, same = exact_kl(two, row, len(sample.answer.token_ids))
        it, other = sample.likelihood, cut_off.likelihood
        assert it.kl_nats == pytest.approx(expected, abs=1e-5)
        assert (it.truncation_nats, it.top_1_agreed) == (0.0, same)
        assert other.kl_nats == pytest.approx(it.kl_nats, abs=4 * math.sqrt(other.kl_variance) + 1e-5)
        assert (it.nats, it.rank_1) == (pytest.approx(other.nats, abs=1e-5), other.rank_1)
        kl, agreed = kl + expected, agreed + same
    metrics = record.result.metrics
    assert metrics["kl_nats_per_token"] == pytest.approx(kl / metrics["scored_tokens"], abs=1e-5)
    assert metrics["top_1_agreement"] == agreed / metrics["scored_tokens"]
    bounded = {key for key in kept.result.metrics if key.endswith("_at_most")}
    exact_only, kept_only = "kl_drawing_error_nats_per_token", "kl_drawn_tokens"
    assert metrics[exact_only] == 0.0, "no token was drawn"
    assert metrics.keys() - {exact_only} == kept.result.metrics.keys() - bounded - {kept_only}
    for key in bounded:
        exact, at_least = (
            metrics[key.removesuffix("_at_most")],
            kept.result.metrics[key.removesuffix("_at_most")],
        )
        assert at_least - 1e-6 <= exact <= kept.result.metrics[key] + 1e-6, key
    assert metrics["delta_p_rms"] == pytest.approx(kept.result.metrics["delta_p_rms"], abs=1e-5)
    own = read_divergences(Path(record.output_dir) / DIVERGENCES)
    changes: list[float] = []
    for row, sample in zip(PAIRS, samples(record), strict=True):
        p, q = probabilities(two, row, sample.answer.token_ids)
        changes += (q - p).tolist()
        assert list(own[sample.index].reference) == pytest.approx(p.log().tolist(), abs=1e-5)
    assert metrics["delta_p_mean"] == pytest.approx(sum(changes) / len(changes), abs=1e-6)
    assert "too few for ±" in format_headline_metrics(kept.result.metrics)["KL"]
    assert "±" not in format_headline_metrics(metrics)["KL"]
    assert f"{model_overrides(two(1))} · side by side, LlamaForCausalLM" in record.result.facts["reference"]


def test_windows_of_a_text_that_is_longer_than_what_may_wait(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(WORDS * 2)
    keys = {
        "data": str(tmp_path / "text.txt"),
        "window": 60,
        "stride": 40,
        "exact": True,
        "reference": model_overrides(two(1)),
    }
    whole = run(two(0, **keys)).result.metrics
    monkeypatch.setattr(side_by_side, "compute_max_queued_distributions", lambda _: 9)
    again = run(replace(two(0, **keys), rerun=True)).result.metrics
    assert again["kl_nats_per_token"] == pytest.approx(whole["kl_nats_per_token"], abs=1e-6)
    assert whole["scored_tokens"] == len(WORDS) * 2 - 1


@pytest.mark.thorough
def test_a_model_beside_itself_has_no_divergence_and_one_that_is_its_own_reference_is_the_plain_job(
    two: Two,
) -> None:
    plain = likelihood.prepare(two(1))
    itself = likelihood.prepare(two(1, exact=True, reference=model_overrides(two(1))))
    assert (itself.hashes, itself.second) == (plain.hashes, None)
    stored, exact = (
        likelihood.prepare(two(0, exact=exact, reference=model_overrides(two(1)))) for exact in (False, True)
    )
    assert stored.after
    assert (exact.after, exact.hashes["exact"]) == ("", "true")
    assert "exact" not in stored.hashes
    config = two(1, exact=True, reference=model_overrides(two(1)))
    config.model = LocalModelConfig(
        name=config.model.name, device="cpu", dtype=Dtype.float32, attention=Attention.eager
    )
    record = run(config)  # another job, of the same weights
    assert record.result.metrics["kl_nats_per_token"] == pytest.approx(0, abs=1e-6)
    assert record.result.metrics["top_1_agreement"] == 1


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupted_job_goes_on(two: Two) -> None:
    config = two(0, exact=True, reference=model_overrides(two(1)))
    whole = run(config)
    folder = Path(whole.output_dir)
    (folder / "result.json").unlink()
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text(lines[0])
    again = run(config)
    assert again.status is Status.FINISHED
    for name in ("kl_nats_per_token", "top_1_agreement", "n"):
        assert again.result.metrics[name] == pytest.approx(whole.result.metrics[name])


def test_distributions_of_a_row_that_is_set_back_count_once() -> None:
    draw = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, 11, generator=draw).log_softmax(dim=-1) for _ in range(2))
    course = DocumentProgress(None, 6, waiting=ReferenceDistributions(2, 3))  # type: ignore[arg-type]
    for rows in (p[:4], p):
        course.waiting.store_reference_distributions(0, rows)
    for first, rows in ((0, q[:3]), (0, q[:1]), (1, q[1:])):
        course.compare_with_reference("x", first, rows)
    expected = float((p.double().exp() * (p.double() - q.double()))[2:5].sum())
    assert course.waiting.count == 3
    assert course.latest.kl_nats == pytest.approx(expected)


# ------------------------------------------------------------------------------------------- what
# cannot work


def test_memory_is_that_of_both(two: Two) -> None:
    alone = two(0)
    config = two(0, exact=True, reference=model_overrides(two(1)))
    resolved = resolve_job(config).copy_job_with_second_model(likelihood.prepare(config).second)
    work = config.task.workload(config.generation)
    one, both = predict_footprint(resolve_job(alone).model, work), predict_footprint(resolved.model, work)
    assert one is not None
    assert both is not None
    assert both.weight_mib == 2 * one.weight_mib
    assert both.kv_cache_mib == 2 * one.kv_cache_mib
    assert both.total_mib > 2 * one.weight_mib
    assert (
        kinds.get_model_kind(config.model).predict_resources(resolved).mib
        > kinds.get_model_kind(alone.model).predict_resources(resolve_job(alone)).mib
    )
    room = {"main memory": 1.5 * one.weight_mib}
    assert {note.code for note in check_memory(plan_model_load(resolve_job(alone).model), room)} <= {
        "memory_short"
    }
    with pytest.raises(
        ConfigError, match="the weights of this model and of its reference need .* task.exact=false"
    ):
        check_memory(plan_model_load(resolved.model), room)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (
            None,
            "likelihood-0123456789ab",
            "names a job, but task.exact=true loads a reference model. Give over",
        ),
        (StubConfig(), "quantization=none", "task.exact=true needs whole distributions of a continuation"),
    ],
)
def test_a_reference_that_cannot_be_loaded_beside_is_refused(
    two: Two, model: Any, words: str, message: str
) -> None:
    config = two(0, exact=True, reference=words)
    with pytest.raises(ConfigError, match=message):
        likelihood.prepare(config if model is None else replace(config, model=model))


def test_exact_needs_a_reference() -> None:
    with raises(ConfigError, "missing", "task.exact"):
        LikelihoodConfig(exact=True)


def test_other_vocabularies_and_other_tokenizers_are_refused_before_a_weight_is_read(
    two: Two,
    saved_family: Callable[..., Path],
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    larger = LocalModelConfig(name=str(saved_family("llama", vocab_size=300)), device="cpu")
    words = f"model=auto model.name={larger.name}"
    with raises(ConfigError, "mismatch", "task.reference"):
        likelihood.prepare(two(0, exact=True, reference=words))
    other = tmp_path / "other"  # its template says something else
    other.mkdir()
    for file in Path(two(1).model.name).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
    tokenizer.save_pretrained(other)
    asked = jsonl(tmp_path / "asked.jsonl", [{"question": "How many?", "answer": "Two."}])
    config = two(0, data=asked, exact=True, reference=f"model=auto model.name={other}")
    monkeypatch.setattr("runner_engine.models.base_loading.load_base_model", None)  # whoever loads fails
    with raises(ConfigError, "mismatch", "task.reference"):
        run(config)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_text_that_is_too_long_for_the_reference_alone_is_an_error_of_its_own(
    two: Two, saved_family: Callable[..., Path], tmp_path: Path
) -> None:
    short = saved_family("llama", seed=1, max_position_embeddings=32)
    words = f"model=auto model.name={short} model.device=cpu model.dtype=float32"
    rows = [PAIRS[0], {"prompt": WORDS, "continuation": "And so on."}]
    record = run(two(0, data=jsonl(tmp_path / "long.jsonl", rows), exact=True, reference=words))
    assert (record.status, record.result.metrics["n"], record.result.metrics["errors"]) == (
        Status.FAILED,
        1,
        1,
    )
    assert "the reference: the prompt and its continuation have" in str(samples(record)[1].error)
    (tmp_path / "text.txt").write_text(WORDS)
    config = two(0, data=str(tmp_path / "text.txt"), window=64, exact=True, reference=words)
    with raises(ConfigError, "too_large", "task.window"):
        run(config)
