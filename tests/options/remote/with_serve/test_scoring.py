"""Log-probabilities by our own server and our own engine; needs both options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_server import own_server

from runner.config.root import RunnerConfig
from runner.config.wording import PromptStyle
from runner.options.remote.keys import ApiConfig
from runner.options.serve.keys import ServeConfig
from runner.records.jobs import read_samples
from runner.run import run
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import Sample
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
HERE = LocalModelConfig(name="embedded", dtype=Dtype.float32, device="cpu")
TEXT = "Tom has 8 pens. Tom buys 5 more. Überall sind 3 Äpfel, „drei“ 😀. " * 8
CHOICES = [
    {"prompt": "1 + 1 =", "choices": [" 2", " 3", " 14"], "gold": 0},
    {"prompt": "Tom has 8 pens", "choices": [".", " and a cat"], "gold": 0},
]


@pytest.fixture
def served(make_config: Make) -> Iterator[str]:
    with own_server(make_config(model=HERE, task=ServeConfig())) as url:
        yield url


def scored(
    make: Make, tmp_path: Path, model: Any, task: LikelihoodConfig
) -> tuple[dict[str, float], list[Sample]]:
    record = run(make(model=model, task=task))
    samples = read_samples(tmp_path / "outputs" / "jobs" / record.job_id / "samples.jsonl")
    return record.result.metrics, [samples[index] for index in sorted(samples)]


@pytest.mark.slow
def test_our_own_server_scores_as_our_own_engine(make_config: Make, served: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    api = ApiConfig(name="embedded", base_url=served)
    for task in (
        LikelihoodConfig(limit=4),
        LikelihoodConfig(limit=4, prompt=PromptStyle.text),
        LikelihoodConfig(data=str(tmp_path / "text.txt"), window=64),
        LikelihoodConfig(data=str(tmp_path / "choices.jsonl")),
    ):
        here, ours = scored(make_config, tmp_path, HERE, task)
        there, theirs = scored(make_config, tmp_path, api, task)
        assert len(ours) == len(theirs) > 1
        for own, other in zip(ours, theirs, strict=True):
            assert own.answer.token_ids == other.answer.token_ids
            assert own.prompt_tokens == other.prompt_tokens
            assert own.likelihood is not None
            assert other.likelihood is not None
            assert other.likelihood.nats == pytest.approx(own.likelihood.nats, abs=1e-4)
            assert other.likelihood.rank_1 == own.likelihood.rank_1
        same = ("n", "scored_tokens", "scored_bytes", "rank_1_share", "acc")
        assert {name: here.get(name) for name in same} == {name: there.get(name) for name in same}


def test_a_reference_needs_more_than_our_own_server_tells(make_config: Make, served: str) -> None:
    api = ApiConfig(name="embedded", base_url=served)
    words = "model=auto model.name=embedded model.dtype=float32 model.device=cpu"
    run(make_config(model=HERE, task=LikelihoodConfig(limit=2, keep_top_k=64)))
    for keys, message in (
        ({"keep_top_k": 8}, "task.keep_top_k=8: .* does not sample tokens from whole distributions"),
        ({"reference": words}, "log-probabilities of given tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(make_config(model=api, task=LikelihoodConfig(limit=2, **keys)))


def test_a_wrong_name_is_named(make_config: Make, served: str) -> None:
    with pytest.raises(ConfigError, match=r"model 'other' not found"):
        run(make_config(model=ApiConfig(name="other", base_url=served), task=LikelihoodConfig(limit=2)))
