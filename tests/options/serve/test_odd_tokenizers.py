"""Prompts that no tokens come of, or whose tokens have no embedding, get an error, and a server
goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_tokenizers import BAD, EXTRA, SAID, save_beyond, save_runaway
from serving import FLOAT32, serving


@pytest.mark.thorough
@pytest.mark.slow
def test_one_prompt_does_not_end_a_server(tmp_path: Path) -> None:
    runaway = save_runaway(tmp_path / "model")
    with serving(
        tmp_path, *FLOAT32, "model=local", f"model.name={runaway}", "model.device=cpu", "tracking=none"
    ) as server:
        for body in (
            {"prompt": BAD},
            {"prompt": ["7", BAD]},
            {"prompt": BAD, "logprobs": 1},
            {"prompt": BAD, "stream": True},
        ):
            status, answer = server.ask("/v1/completions", body)
            assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
            assert SAID in answer["error"]["message"]
        assert server.ask("/tokenize", {"prompt": BAD})[0] == 400
        chat = {"messages": [{"role": "user", "content": BAD}]}
        assert server.ask("/v1/chat/completions", chat)[0] == 400
        assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 2})[0] == 200
        server.until(lambda now: now["runner_open"] == 0)
        assert "Traceback" not in server.err


@pytest.mark.slow
def test_a_server_says_400_and_goes_on(tmp_path: Path) -> None:
    beyond = save_beyond(tmp_path / "model")
    with serving(tmp_path, *FLOAT32, "model=auto", f"model.name={beyond}", "model.device=cpu") as server:
        text = f"Tom has {EXTRA} pens"
        for path, body in (
            ("/v1/completions", {"prompt": text}),
            ("/v1/completions", {"prompt": [3, 896]}),
            ("/v1/completions", {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 0}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        ):
            status, answer = server.ask(path, body)
            assert (status, f"'{EXTRA}'" in str(answer), "token id 896 is invalid" in str(answer)) == (
                400,
                True,
                True,
            ), answer
        assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 2})[0] == 200
        assert "Traceback" not in server.err
