"""A sampling parameter has the same effect everywhere: jobs, parts, a server, a chat, Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import in_process
import pytest
import warm_process
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


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model in two parts."""
    folder = tmp_path_factory.mktemp("split")
    code, _, errors = in_process.run(
        "runner", ["task=split", "task.num_parts=2", "task.output_dir=parts", "tracking=none"], folder, {}
    )
    assert code == 0, errors
    return str(folder / "parts")


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
def test_jobs_parts_and_servers(
    name: str, answers: dict[str, str], runner: Callable[..., Any], server: Serving, parts: str
) -> None:
    sampling = SAMPLINGS[name]
    assert generated(runner, sampling, *EXACT) == answers[name]
    assert generated(runner, sampling, "model=parts", f"model.name={parts}", "model.stages=1", *EXACT) == answers[name]
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS, **sampling}
    status, answer = server.ask("/v1/chat/completions", body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, answers[name])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_chat(name: str, answers: dict[str, str], tmp_path: Path) -> None:
    settings = "".join(f"/set generation.{key}={value}\n" for key, value in SAMPLINGS[name].items())
    command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=json", *EXACT]
    command += [f"generation.max_new_tokens={TOKENS}"]
    done = warm_process.complete(command, f"{settings}{QUESTION}\nquit\n".encode(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/jobs/*/samples.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["text"] == answers[name]
