"""A sampling parameter has the same effect in Python and for model=api with our own server; needs both options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving

from runner import load
from runner.library.model import Model

QUESTION = "Ann has 3 apples and buys 4 more. How many apples does she have?"
TOKENS = 24
# At a temperature of 5 every token is random, unless min_p=1 leaves only the most probable one. A penalty changes the
# greedy answer. So the answers are the same everywhere, and differ where the parameter is dropped.
SAMPLINGS: dict[str, dict[str, Any]] = {
    "min_p": {"temperature": 5, "min_p": 1},
    "frequency_penalty": {"temperature": 0, "frequency_penalty": -2},
    "presence_penalty": {"temperature": 0, "presence_penalty": 2},
}
EXACT = ("model.device=cpu", "model.dtype=float32")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load("embedded", dtype="float32", device="cpu", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), *EXACT) as it:
        yield it


@pytest.fixture(scope="module")
def answers(model: Model) -> dict[str, str]:
    """Return the answers in Python by parameter; a greedy answer and a sampled one are the controls."""
    texts = {
        name: str(model.generate(QUESTION, max_new_tokens=TOKENS, **sampling)) for name, sampling in SAMPLINGS.items()
    }
    plain = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=0))
    sampled = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=5))
    assert texts["min_p"] == plain != sampled
    assert len({plain, texts["frequency_penalty"], texts["presence_penalty"]}) == 3, texts
    return texts


def generated(runner: Callable[..., Any], sampling: dict[str, Any], *arguments: str) -> str:
    """Return the completion of one job."""
    keys = [f"generation.{name}={value}" for name, value in sampling.items()]
    done = runner(
        "task=generate", f"task.prompt='{QUESTION}'", f"generation.max_new_tokens={TOKENS}", "tracking=none",
        "print=json", *keys, *arguments,
    )  # fmt: skip
    assert done.code == 0, done.err
    (line,) = (Path(json.loads(done.out)["output_dir"]) / "samples.jsonl").read_text().splitlines()
    return str(json.loads(line)["text"])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_model_on_our_own_server(
    name: str, answers: dict[str, str], runner: Callable[..., Any], server: Serving
) -> None:
    model = server.ask("/v1/models")[1]["data"][0]["id"]
    api = ("model=api", f"model.base_url={server.url}/v1", f"model.name={model}")
    assert generated(runner, SAMPLINGS[name], *api) == answers[name]
