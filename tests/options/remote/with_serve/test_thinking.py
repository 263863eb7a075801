"""Our own server in front of a model on a server that thinks; needs both options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api
from openai import OpenAI
from serving import FLOAT32, Serving, serving
from thoughtful import thinking_model

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?\nSolve it step by step. End with '#### ' and the number."
ASKED: dict[str, Any] = {
    "model": "thinks",
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("thinking")
    model = thinking_model(folder / "thinks", shows_old_thoughts=True)
    named = ("model=auto", f"model.name={model}", "task.model_name=thinks", "task.max_new_tokens=300")
    with serving(folder, *named, *FLOAT32, "tracking=none") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def parts(choice: Any) -> tuple[str, str]:
    """The thinking and the answer of a message or of a delta."""
    return getattr(choice, "reasoning_content", None) or "", choice.content or ""


@pytest.mark.slow
def test_a_thought_that_another_server_sends_apart_goes_on_apart(tmp_path: Path) -> None:
    with Api(lambda _: "thirteen") as api:
        api.thinking = "reasoning", lambda _: "8 + 5"
        there = ("model=api", "model.name=tiny", f"model.base_url={api.url}", "tracking=none")
        with serving(tmp_path, *there) as server, OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            asked: Any = {"model": "tiny", "messages": ASKED["messages"]}
            whole = client.chat.completions.create(**asked)
            streamed = [
                parts(chunk.choices[0].delta)
                for chunk in client.chat.completions.create(**asked, stream=True)
            ]
            again = [*ASKED["messages"], {"role": "assistant", "content": "13", "reasoning_content": "8 + 5"}]
            client.chat.completions.create(**asked | {"messages": again})
    assert parts(whole.choices[0].message) == ("8 + 5", "thirteen")
    assert ["".join(texts) for texts in zip(*streamed, strict=True)] == ["8 + 5", "thirteen"]
    assert api.seen[-1]["messages"][1] == {"role": "assistant", "content": "13"}, (
        "some servers refuse thinking"
    )
