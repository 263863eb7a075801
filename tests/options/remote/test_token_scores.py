"""A model on a server compared with a reference by the tokens that it kept: equal to our own engine
by both ways of asking; a server that does not do what it is asked is named before any work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from likely import PAIRS, WORDS, jsonl, model_overrides, samples
from naming_server import naming_server

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner.run import run
from runner.tasks.likelihood import task as likelihood
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import Record
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
Folder = Callable[..., Path]
TEXTS = [{"text": WORDS[at:] + WORDS[:at]} for at in (0, 9, 17, 30)]
PASS, STEPS = "/inference/v1/generate", "/v1/completions"


@pytest.fixture
def here(make_config: Make, saved_family: Folder) -> Callable[..., RunnerConfig]:
    """Return a function that makes a job of one of two models on this machine."""

    def make(which: int, data: str, **task: object) -> RunnerConfig:
        folder = str(saved_family("llama", seed=which))
        model = LocalModelConfig(name=folder, device="cpu", dtype=Dtype.float32)
        return make_config(model=model, task=LikelihoodConfig(data=data, **task))  # type: ignore[arg-type]

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("faults", [(), ("no_pass",)], ids=["pass", "steps"])
def test_a_server_is_as_far_from_a_reference_as_our_own_engine(
    make_config: Make,
    saved_family: Folder,
    here: Callable[..., RunnerConfig],
    tmp_path: Path,
    rows: list[dict[str, str]],
    faults: tuple[str, ...],
) -> None:
    data = jsonl(tmp_path / "rows.jsonl", rows)
    words = model_overrides(here(1, data))
    run(here(1, data, keep_top_k=64))
    whole = run(here(0, data, reference=words, exact=True)).result.metrics
    own = run(here(0, data, reference=words, exact=False))
    with naming_server(saved_family("llama", seed=0), *faults) as (url, server):
        model = ApiConfig(name="tiny", base_url=url)
        task = LikelihoodConfig(data=data, reference=words)
        done = run(make_config(model=model, task=task))
    assert set(server.asked) == {STEPS if faults else PASS}
    assert whole["kl_nats_per_token"] > 0
    for mine, told in zip(samples(own), samples(done), strict=True):
        assert told.answer.token_ids == mine.answer.token_ids
        assert told.likelihood.nats == pytest.approx(mine.likelihood.nats, abs=1e-3)
        assert told.likelihood.kl_nats == pytest.approx(mine.likelihood.kl_nats, abs=1e-3)
        assert told.likelihood.kl_variance == pytest.approx(mine.likelihood.kl_variance, rel=1e-2)
        assert told.likelihood.top_1_agreed == mine.likelihood.top_1_agreed
        assert told.likelihood.rank_1 == mine.likelihood.rank_1
    metrics = done.result.metrics
    assert "kl_drawing_error_nats_per_token" not in metrics, "too few tokens for an interval"
    drawn = [sample.likelihood for sample in samples(done)]
    tokens = sum(likelihood.tokens for likelihood in drawn)
    assert metrics["kl_drawn_tokens"] == tokens
    error = 1.96 * math.sqrt(sum(likelihood.kl_variance for likelihood in drawn)) / tokens
    assert error > 0
    assert abs(metrics["kl_nats_per_token"] - whole["kl_nats_per_token"]) <= error + 1e-4
    assert metrics["kl_p90_nats"] == pytest.approx(own.result.metrics["kl_p90_nats"], abs=1e-4)
    assert metrics["kl_p90_nats_at_most"] == float("inf"), "no server tells the least probability"
    worst = (Path(done.output_dir) / "worst_tokens.jsonl").read_text()
    assert len(worst.splitlines()) > 10
    assert _contexts(done) == _contexts(own)


def _contexts(record: Record) -> set[tuple[str, str]]:
    lines = (Path(record.output_dir) / "worst_tokens.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {(line["before"], line["token"]) for line in found}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (("no_pass", "no_steps"), r"/inference/v1/generate answered 403: .*--enable-scale-out.*"
                                  r"/v1/completions answered 400: .*unknown field"),
        (("ignores",), r"ignores prompt_logprob_token_ids: its answer has no such field; or .*"
                       r"ignores logprob_token_ids: \d of \d ids are missing in its answer"),
        (("fewer",), r"sent an array of 5 × 80 for prompt_logprob_token_ids, but 5 × 81 was requested"),
        (("other_places", "no_steps"), r"sent inconsistent log-probabilities: prompt_logprob_token_ids"),
        (("not_numbers", "no_steps"), r"sent an impossible log-probability"),
        (("no_pass", "no_first"), r"sent log-probabilities without token ids"),
        (("logits",), r"cannot compute log-probabilities of a text"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_do_what_it_is_asked_is_named_before_any_work(
    make_config: Make,
    saved_family: Folder,
    here: Callable[..., RunnerConfig],
    tmp_path: Path,
    faults: tuple[str, ...],
    message: str,
) -> None:
    data = jsonl(tmp_path / "rows.jsonl", TEXTS)
    words = model_overrides(here(1, data))
    with naming_server(saved_family("llama", seed=0), *faults) as (url, server):
        model = ApiConfig(name="tiny", base_url=url, retries=0)
        run(here(1, data, keep_top_k=64))
        with pytest.raises(ConfigError, match=message) as error:
            run(make_config(model=model, task=LikelihoodConfig(data=data, reference=words)))
    if "logits" not in faults:
        assert (
            "log-probabilities of given tokens. Use model=vllm or model=local. Unsupported requests"
            in str(error.value)
        )
    assert len(server.asked) <= 2, "one trial of each way"
    assert not [*tmp_path.glob("outputs/jobs/*/samples.jsonl")][1:], "only the reference's"


def test_a_server_cannot_be_a_reference(
    make_config: Make, here: Callable[..., RunnerConfig], tmp_path: Path
) -> None:
    data = jsonl(tmp_path / "rows.jsonl", PAIRS)
    model = ApiConfig(name="tiny", base_url="http://127.0.0.1:1/v1")
    message = r"its server does not sample tokens from whole distributions\. Use the runner's engine"
    with pytest.raises(ConfigError, match=rf"task.keep_top_k=8: .*{message}"):
        likelihood.prepare(make_config(model=model, task=LikelihoodConfig(data=data, keep_top_k=8)))
    words = "model=api model.name=tiny model.base_url=http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError, match=rf"task.reference=model=api .*{message}"):
        likelihood.prepare(here(0, data, reference=words, exact=False))
