"""POST /tokenize on a real server: the tokens, refusals, and that a request counts as an open
completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import FLOAT32, Serving, serving

pytestmark = pytest.mark.slow  # as a group

USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("tokens"), *FLOAT32, "tracking=none") as server:
        yield server


@pytest.mark.thorough
def test_a_prompt_and_a_chat_have_the_tokens_that_the_model_reads(server: Serving) -> None:
    text = "Tom has 8 pens."
    status, plain = server.ask("/tokenize", {"prompt": text})
    assert (status, plain["count"], plain["prompt"], plain["max_model_len"]) == (
        200,
        len(plain["tokens"]),
        text,
        1024,
    )
    _, scored = server.ask("/v1/completions", {"prompt": plain["tokens"], "max_tokens": 0, "echo": True})
    assert scored["choices"][0]["text"] == text
    _, bare = server.ask("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert plain["tokens"][-bare["count"] :] == bare["tokens"]
    _, chat = server.ask("/tokenize", {"messages": [USER], "add_generation_prompt": True})
    _, answered = server.ask("/v1/chat/completions", {"messages": [USER], "max_tokens": 1})
    assert chat["count"] == answered["usage"]["prompt_tokens"] > 1
    assert "Hi" in chat["prompt"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "give either prompt or messages"),
        ({"prompt": "7", "messages": [USER]}, 400, "give either prompt or messages"),
        ({"prompt": "7", "model": "other"}, 404, "model 'other' not found"),
        ({"prompt": ["7"]}, 400, "prompt"),
        ({"prompt": "7", "promt": "8"}, 400, "no parameter 'promt'. Did you mean prompt?"),
        ({"prompt": "7", "return_token_strs": True}, 400, "return_token_strs: this server does not support this parameter"),
        ({"messages": [USER], "add_generation_prompt": False}, 400, "add_generation_prompt: this server does not support"),
        ({"messages": [USER | {"role": "robot"}]}, 400, "messages[0].role: no role 'robot'"),
        ({"messages": [USER] * 10_001}, 400, "messages: 10001 messages exceed the limit of 10000"),
        ({"prompt": "\ud800"}, 400, "character 0 is a lone surrogate"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b" " * 2_000_000, 413, "1024 KiB (task.max_body_kib)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(
    server: Serving, body: Any, status: int, message: str
) -> None:
    actual, answer = server.ask("/tokenize", body)
    assert actual == status, answer
    assert message in answer["error"]["message"]


def test_it_counts_as_an_open_completion(tmp_path: Path) -> None:
    with serving(tmp_path, "model=stub", "model.delay_s=300", "tracking=none", "task.max_open=1") as server:
        with server.send("/v1/completions", {"prompt": "7"}):
            server.until(lambda now: now["runner_open"] == 1)
            status, answer = server.ask("/tokenize", {"prompt": "7"})
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        server.until(lambda now: now["runner_open"] == 0)
        assert server.ask("/tokenize", {"prompt": "7"})[0] == 200
