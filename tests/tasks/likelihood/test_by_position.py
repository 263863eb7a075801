"""Loss and divergence by position: against plain forward passes, and of a stub whose loss by
position is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from likely import WORDS, jsonl, model_overrides, samples, scores
from transformers import AutoTokenizer

from runner.config.root import RunnerConfig
from runner.run import run
from runner.tasks.likelihood import scoring
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.position_sums import sum_logprobs_by_position_range
from runner_base.result import Record
from runner_compare.features.contexts.render import build_text_likelihood_records
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
LOSS = "loss_nats_per_token"


@pytest.fixture(autouse=True)
def _from_short_windows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LEAST", 32)


def job(make_config: Make, model: LocalModelConfig, folder: Path, **keys: Any) -> Record:
    data = jsonl(folder / "texts.jsonl", [{"text": WORDS * 2}, {"text": WORDS}])
    usual: dict[str, Any] = {"data": data, "window": 64, "stride": 32}
    return run(make_config(model=model, task=LikelihoodConfig(**(usual | keys))))


@pytest.mark.thorough
def test_losses_by_position_are_those_of_plain_forward_passes(
    make_config: Make, tiny_model: LocalModelConfig, tiny_llama: Path, tmp_path: Path
) -> None:
    record = job(make_config, tiny_model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    losses: dict[int, list[float]] = {}
    for text in (WORDS * 2, WORDS):
        ids = tokenizer(text)["input_ids"]
        scored = 1
        for begin in range(0, len(ids), 32):
            read = ids[begin : begin + 64]
            after = scores(tiny_llama, read).gather(1, torch.tensor(read[1:])[:, None])[:, 0]
            for place in range(scored - begin, len(read)):
                losses.setdefault(2 ** (place.bit_length() - 1), []).append(-float(after[place - 1]))
            scored = begin + len(read)
            if scored == len(ids):
                break
    metrics = record.result.metrics
    assert [*losses] == [1, 2, 4, 8, 16, 32]
    for first, values in losses.items():
        assert metrics[f"scored_tokens/position_{first}"] == len(values)
        assert metrics[f"{LOSS}/position_{first}"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert dict(record.result.series["loss_by_position"]) == pytest.approx(
        {first: metrics[f"{LOSS}/position_{first}"] for first in losses}
    )
    (table,) = (rows for title, rows in record.result.tables.items() if title.startswith("loss by position"))
    assert [row["tokens before"] for row in table] == ["1", "2–3", "4–7", "8–15", "16–31", "32–63"]


def test_windows_that_are_short_keep_nothing_by_position(
    make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path
) -> None:
    record = job(make_config, tiny_model, tmp_path, window=32, stride=16)
    assert all(it.likelihood.by_position is None for it in samples(record))
    assert not any("position_" in key for key in record.result.metrics)


@pytest.mark.parametrize("exact", [True, False])
def test_the_divergence_by_position_adds_up_to_the_jobs(two: Make, tmp_path: Path, exact: bool) -> None:
    data = jsonl(tmp_path / "texts.jsonl", [{"text": WORDS * 2}, {"text": WORDS}])
    keys: dict[str, Any] = {"data": data, "window": 64, "stride": 32}
    base = two(0, **keys, keep_top_k=0 if exact else 8)
    record = base if exact else run(base)
    words = model_overrides(base) if exact else record.job_id  # type: ignore[union-attr]
    metrics = run(two(1, **keys, reference=words, exact=exact)).result.metrics
    firsts = [1, 2, 4, 8, 16, 32]
    tokens = [metrics[f"scored_tokens/position_{first}"] for first in firsts]
    divergences = [metrics[f"kl_nats_per_token/position_{first}"] for first in firsts]
    whole = sum(size * kl for size, kl in zip(tokens, divergences, strict=True)) / sum(tokens)
    assert whole == pytest.approx(metrics["kl_nats_per_token"], rel=1e-6)
    assert len({round(kl, 6) for kl in divergences}) > 3


def test_a_stub_whose_loss_falls_by_a_known_amount_at_each_doubling() -> None:
    """The loss of a token with n tokens before it is 5 - log2(n) / 4; the parts are windows of
    1,024 every 512."""
    from runner_base.result import Likelihood

    parts: list[Likelihood] = []
    for unit in range(3):
        for begin, scored in [(0, 1), *((begin, begin + 512) for begin in range(512, 8192, 512))]:
            losses = [5 - math.log2(place - begin) / 4 for place in range(scored, begin + 1024)]
            own = sum_logprobs_by_position_range(scored - begin, [-loss for loss in losses])
            parts.append(Likelihood(unit, -sum(losses), len(losses), 1, 1, 0, by_position=own))
    found = build_text_likelihood_records(parts, {}).metrics
    for first in (2**power for power in range(10)):
        exact = sum(5 - math.log2(before) / 4 for before in range(first, 2 * first)) / first
        assert found[f"{LOSS}/position_{first}"] == pytest.approx(exact)
    assert found["scored_tokens/position_512"] == 3 * 16 * 512
    # only the first window has so few before a token
    assert found["scored_tokens/position_256"] == 3 * 256


@pytest.mark.parametrize(
    ("before", "count", "bins"),
    [
        (1, 7, [(0, 1), (1, 2), (2, 4)]),
        (5, 4, [(2, 3), (3, 1)]),
        (512, 512, [(9, 512)]),
        (1023, 2, [(9, 1), (10, 1)]),
    ],
)
def test_bins_of_powers_of_two(before: int, count: int, bins: list[tuple[int, int]]) -> None:
    found = sum_logprobs_by_position_range(before, [-1.0] * count, [0.5] * count)
    assert [(number, tokens) for number, tokens, _, _ in found] == bins
    assert all((nats, kl) == (-tokens, tokens / 2) for _, tokens, nats, kl in found)
