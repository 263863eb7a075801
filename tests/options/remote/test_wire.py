"""The guard of responses: each kind of unlimited body has its own message, and prompts stay with
their host."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_standin import Api, Trouble
from job_engines import open_engine
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner_base.errors import ConfigError
from runner_engine.sessions.base import Completion, Message, Request
from runner_engine.sessions.contract import complete_requests

HI = (Message("user", "Hi"),)
MORE_MIB = 100  # that an unlimited body may take; each of these servers sends more


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        yield api


@pytest.fixture
def ask(make_config: Callable[..., RunnerConfig], api: Api) -> Callable[..., Completion]:
    """Return a function that asks once, without a second try."""

    def ask(url: str = "", **keys: Any) -> Completion:
        quick: dict[str, Any] = {
            "name": "tiny",
            "base_url": url or api.url,
            "retries": 0,
            "first_token_timeout_s": 60.0,
        }
        engine = open_engine(make_config(model=ApiConfig(**quick | keys)))
        try:
            (one,) = complete_requests(engine, [Request(0, HI)])
            return one
        finally:
            engine.close()

    return ask


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Trouble("endless_line"), "sent a line or an event of more than 1 MiB"),
        (Trouble("gzip_bomb", 200), "sent a compressed answer (gzip), which was not requested"),
        (Trouble("gzip_bomb", 400), "answered 400: Error code: 400"),
        (Trouble("endless_body", 400), "answered 400: Error code: 400"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Trouble) else "",
)
def test_each_unlimited_body_has_its_own_message(ask: Any, api: Api, trouble: Trouble, words: str) -> None:
    api.always = trouble
    ask()  # the first one also takes the libraries' memory
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = str(ask().error)
    assert words in error
    assert "silent" not in error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MORE_MIB * 1024


def test_a_wrong_key_is_reported_even_with_an_unlimited_body(ask: Any, api: Api) -> None:
    api.always = Trouble("endless_body", 401)
    with raises(ConfigError, "refused"):
        ask()


@pytest.mark.thorough
@pytest.mark.slow
def test_keep_alive_comments_without_text_are_a_fault(ask: Any, api: Api) -> None:
    api.always = Trouble("comments")
    assert "started an answer, but sent no text within 3 s" in str(ask(first_token_timeout_s=3.0).error)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("status", [307, 308, 301])
def test_prompts_do_not_follow_to_another_host(ask: Any, api: Api, status: int) -> None:
    with Api() as other:
        other_url = f"http://localhost:{other.port}/v1"
        for path in ("/chat/completions", "/models?key=12345"):
            api.always = Trouble(
                "status", status, {"Location": f"http://u:pass@localhost:{other.port}/v1{path}"}
            )
            with raises(ConfigError, "refused", "model.base_url") as error:
                ask()
            assert error.value.value == api.url
            assert error.value.reason.endswith(f"model.base_url={other_url}")
            assert "pass" not in str(error.value)
        assert other.seen == []
        assert ask(other_url).answer.text == "I heard Hi", "with its own address"
    assert len(api.seen) == 2, "no second try"


def test_a_redirect_at_the_same_host_is_followed(ask: Any, api: Api) -> None:
    api.troubles.append(Trouble("status", 307, {"Location": "/v1/chat/completions?again=1"}))
    assert ask().answer.text == "I heard Hi"
    assert len(api.seen) == 2
    assert threading.active_count() < 50
