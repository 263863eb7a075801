"""POST /tokenize on a real server: whose tokens, what is refused by name, and that it takes a place like a completion."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from serving import FLOAT32, Serving, serving

pytestmark = pytest.mark.slow  # as a group

USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("tokens"), *FLOAT32, "tracking=none", "task.max_open=1") as server:
        yield server


def test_a_prompt_and_a_chat_have_the_tokens_that_the_model_reads(server: Serving) -> None:
    text = "Tom has 8 pens."
    status, plain = server.ask("/tokenize", {"prompt": text})
    assert (status, plain["count"], plain["prompt"], plain["max_model_len"]) == (200, len(plain["tokens"]), text, 1024)
    _, scored = server.ask("/v1/completions", {"prompt": plain["tokens"], "max_tokens": 0, "echo": True})
    assert scored["choices"][0]["text"] == text
    _, bare = server.ask("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert plain["tokens"][-bare["count"] :] == bare["tokens"]
    _, chat = server.ask("/tokenize", {"messages": [USER], "add_generation_prompt": True})
    _, answered = server.ask("/v1/chat/completions", {"messages": [USER], "max_tokens": 1})
    assert chat["count"] == answered["usage"]["prompt_tokens"] > 1
    assert "Hi" in chat["prompt"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "give either prompt or messages"),
        ({"prompt": "7", "messages": [USER]}, 400, "give either prompt or messages"),
        ({"prompt": "7", "model": "other"}, 404, "no model 'other' here"),
        ({"prompt": ["7"]}, 400, "prompt"),
        ({"prompt": "7", "promt": "8"}, 400, "no parameter 'promt'. Did you mean prompt?"),
        ({"prompt": "7", "return_token_strs": True}, 400, "return_token_strs: this server has no such thing"),
        ({"messages": [USER], "add_generation_prompt": False}, 400, "add_generation_prompt: this server has no such"),
        ({"messages": [USER | {"role": "robot"}]}, 400, "messages[0].role: no role 'robot'"),
        ({"messages": [USER] * 10_001}, 400, "messages: 10001 are too many: this server takes 10000"),
        ({"prompt": "\ud800"}, 400, "half of a character stands at 0"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b" " * 2_000_000, 413, "1024 KiB (task.max_body_kib)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(server: Serving, body: Any, status: int, said: str) -> None:
    found, answer = server.ask("/tokenize", body)
    assert found == status, answer
    assert said in answer["error"]["message"]


def test_it_takes_a_place_like_a_completion(server: Serving) -> None:
    long = {"prompt": "7", "max_tokens": 900, "ignore_eos": True}
    completing = threading.Thread(target=server.ask, args=("/v1/completions", long))
    completing.start()
    server.until(lambda now: now["runner_open"] == 1)
    status, answer = server.ask("/tokenize", {"prompt": "7"})
    completing.join()
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert server.ask("/tokenize", {"prompt": "7"})[0] == 200
    assert server.metrics()["runner_open"] == 0
    assert server.stop(signal.SIGTERM) == 0
