"""A sampling parameter does the same in every place that takes one: jobs, parts, a server, over a server, a chat, Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm_process
from serving import Serving, serving

from runner import load
from runner.library.model import Model

QUESTION = "Ann has 3 apples and buys 4 more. How many apples does she have?"
TOKENS = 24
# At a temperature of 5 every token is a lottery, unless min_p=1 leaves the likeliest one alone. A penalty changes what
# is greedy. So no place needs the draws of another one, and a place that drops the parameter answers otherwise.
WAYS: dict[str, dict[str, Any]] = {
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
    """What Python gets, by the parameter; the greedy one and a drawn one are the controls."""
    answers_by_parameter = {
        name: str(model.generate(QUESTION, max_new_tokens=TOKENS, **way)) for name, way in WAYS.items()
    }
    plain = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=0))
    drawn = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=5))
    assert answers_by_parameter["min_p"] == plain != drawn
    assert len({plain, answers_by_parameter["frequency_penalty"], answers_by_parameter["presence_penalty"]}) == 3, (
        answers_by_parameter
    )
    return answers_by_parameter


def generated(runner: Callable[..., Any], way: dict[str, Any], *arguments: str) -> str:
    """The completion of one job."""
    keys = [f"generation.{name}={value}" for name, value in way.items()]
    done = runner(
        "task=generate", f"task.prompt='{QUESTION}'", f"generation.max_new_tokens={TOKENS}", "tracking=none",
        "print=json", *keys, *arguments,
    )  # fmt: skip
    assert done.code == 0, done.err
    (line,) = (Path(json.loads(done.out)["output_dir"]) / "samples.jsonl").read_text().splitlines()
    return str(json.loads(line)["text"])


@pytest.mark.parametrize("name", WAYS)
def test_jobs_parts_and_servers(
    name: str, answers: dict[str, str], runner: Callable[..., Any], server: Serving, tmp_path: Path
) -> None:
    way, server_model = WAYS[name], server.ask("/v1/models")[1]["data"][0]["id"]
    assert generated(runner, way, *EXACT) == answers[name]
    split = runner("task=split", "task.num_parts=2", "task.output_dir=parts", "tracking=none", "print=none")
    assert split.code == 0, split.err
    assert generated(runner, way, "model=parts", "model.name=parts", "model.stages=1", *EXACT) == answers[name]
    api = ("model=api", f"model.base_url={server.url}/v1", f"model.name={server_model}")
    assert generated(runner, way, *api) == answers[name]
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS, **way}
    status, answer = server.ask("/v1/chat/completions", body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, answers[name])


@pytest.mark.parametrize("name", WAYS)
def test_a_chat(name: str, answers: dict[str, str], tmp_path: Path) -> None:
    settings = "".join(f"/set generation.{key}={value}\n" for key, value in WAYS[name].items())
    command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=json", *EXACT]
    command += [f"generation.max_new_tokens={TOKENS}"]
    done = warm_process.complete(command, f"{settings}{QUESTION}\nquit\n".encode(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/jobs/*/samples.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["text"] == answers[name]
