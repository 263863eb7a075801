"""A server that has another model behind the same address and name: refused, from a planted change and by our
own server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

from runner.options.remote.server_probe import MIN_GAP, ProbeAnswer, ServerProbe, _probes, compare_probes

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
QUICK = ("model=api", "model.name=tiny", "model.retries=0", "task.limit=2", "tracking=none", "print=json")


def tokens(text: str, change: float = 0.0) -> list[tuple[str, float]]:
    """Return eight tokens of an answer with their log-probabilities."""
    return [(word, -0.1 * (at + 1) - change) for at, word in enumerate((text * 8).split()[:8])]


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(lambda body: "#### 1") as api:
        api.scores = tokens
        yield api


def change_nothing(api: Api) -> None:
    """Leave the server as it is."""


def add_noise(api: Api) -> None:
    api.scores = lambda text: tokens(text, MIN_GAP / 2)


def change_weights(api: Api) -> None:
    api.scores = lambda text: tokens(text, 2 * MIN_GAP)


def answer_otherwise(api: Api) -> None:
    api.scores = lambda text: [("other", -0.01)] * 8


def change_template(api: Api) -> None:
    api.prompt_tokens = lambda text: len(text.split()) + 3


@pytest.mark.parametrize(
    ("change", "exit_code"),
    [(change_nothing, 0), (add_noise, 0), (change_weights, 2), (answer_otherwise, 2), (change_template, 2)],
)
def test_a_finished_job_is_refused_if_the_servers_model_has_changed(
    runner: Run, api: Api, change: Callable[[Api], None], exit_code: int
) -> None:
    job = (*QUICK, f"model.base_url={api.url}")
    first = runner(*job)
    assert first.code == 0
    assert "cannot be hashed" not in first.err
    asked = len(api.seen)
    change(api)
    _probes.clear()
    again = runner(*job)
    assert (again.code, len(api.seen)) == (exit_code, asked)
    if exit_code:
        assert "rerun=all" in again.err
        assert runner(*job, "rerun=all").code == 0
        assert len(api.seen) == 2 * asked
        assert runner(*job).code == 0, "the new run has the new probe"


def test_a_resumed_job_never_mixes_two_models(runner: Run, api: Api, tmp_path: Path) -> None:
    job = (*QUICK, f"model.base_url={api.url}")
    runner(*job)
    (result,) = tmp_path.glob("outputs/jobs/*/result.json")
    result.unlink()
    samples = result.with_name("samples.jsonl")
    samples.write_text(samples.read_text().splitlines(keepends=True)[0])
    asked = len(api.seen)
    change_weights(api)
    _probes.clear()
    assert (runner(*job).code, len(api.seen)) == (2, asked)


def test_without_log_probabilities_other_texts_are_only_named(runner: Run, api: Api) -> None:
    api.has_logprobs = False
    job = (*QUICK, f"model.base_url={api.url}")
    assert runner(*job).code == 0
    answer_otherwise(api)
    _probes.clear()
    again = runner(*job)
    assert again.code == 0
    assert "may have changed" in again.err


def test_a_server_that_answers_no_probe_or_is_gone_is_not_refused(runner: Run, api: Api) -> None:
    job = (*QUICK, f"model.base_url={api.url}")
    assert runner(*job).code == 0
    api.scores = None
    _probes.clear()
    assert runner(*job).code == 0
    api.die()
    _probes.clear()
    assert runner(*job).code == 0


def test_a_near_tie_is_no_change_and_a_sure_token_is() -> None:
    def probe(token: str, logprob: float) -> ServerProbe:
        return ServerProbe((ProbeAnswer(5, token, (token,), (logprob,)),), 0.0)

    assert not compare_probes(probe("a", -0.70), probe("b", -0.70)).is_other_model
    assert compare_probes(probe("a", -0.01), probe("b", -0.01)).is_other_model
    noisy = ServerProbe(probe("a", -0.5).answers, noise=0.1)
    assert not compare_probes(noisy, probe("a", -0.8)).is_other_model, "the server's own noise explains it"
    assert ServerProbe.from_fact(noisy.to_fact()) == noisy
    assert ServerProbe.from_fact("{}") is None
