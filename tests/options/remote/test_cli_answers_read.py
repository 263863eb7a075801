"""Who reads the answer of a model on a server that thinks, and where the thought is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

Run = Callable[..., Any]
THOUGHT = "secret #### 99"


@pytest.fixture
def api() -> Iterator[Api]:
    """A server whose model thinks, with its tags in the text."""
    with Api(lambda _: f"<think>\n{THOUGHT}\n</think>\n\nThe answer is 21") as api:
        yield api


def at(api: Api) -> list[str]:
    return [
        "model=api",
        "model.name=tiny",
        f"model.base_url={api.url}",
        "model.backoff_s=0.01",
        "tracking=none",
    ]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"outputs/jobs/*/{name}")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.thorough
def test_generate_shows_the_answer_and_keeps_the_thought(runner: Run, tmp_path: Path, api: Api) -> None:
    def ask(*more: str) -> Any:
        done = runner(*at(api), "task=generate", *more)
        assert done.code == 0, done.err
        return done

    shown = ask("task.prompt=Hi")
    assert shown.out.startswith("The answer is 21\n\n")
    assert THOUGHT not in shown.out
    assert ask("task.prompt=Hi", "print=full").out.startswith(f"[thinking] {THOUGHT}\n\nThe answer is 21\n\n")
    (completion,) = ask("task.prompt=Hi", "print=json").json()["completions"]
    assert (completion["text"], completion["thinking"]) == ("\n\nThe answer is 21", f"\n{THOUGHT}\n")
    (tmp_path / "p.txt").write_text("Hi\nHo\n")
    api.answer = lambda body: (
        "<think>\nhm" if "Ho" in str(body) else f"<think>{THOUGHT}</think>\n\nThe answer is 21"
    )
    table = ask("task.prompts=p.txt").out
    assert "stop, still thinking" in table
    assert THOUGHT not in table
    assert THOUGHT in ask("task.prompts=p.txt", "print=full").out


@pytest.mark.thorough
def test_reviews_and_revisions_read_the_answer(runner: Run, tmp_path: Path, api: Api) -> None:
    with Api(lambda body: "<think>0.1</think>" + '{"score": 0.2, "feedback": "Again."}') as teacher:
        hybrid = (
            "model=hybrid",
            "model.rounds=2",
            f"model.teacher.base_url={teacher.url}",
            "model.teacher.name=tiny",
        )
        student = ("model.student.name=x", "model.student.stub=true")
        done = runner(*hybrid, *student, "task=generate", "task.prompt=Hi", "tracking=none", "print=json")
    assert done.code == 0, done.err
    assert [call["what"] for call in lines(tmp_path, "samples.jsonl")[0]["calls"]] == [
        "draft", "review", "revision", "review", "answer"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_trace_has_the_thought_by_itself(runner: Run, tmp_path: Path, api: Api) -> None:
    from mlflow import MlflowClient

    done = runner(
        *at(api)[:-1], "task.limit=1", "task.check_invariance=0", "tracking.traces=true", "print=json"
    )
    assert done.code == 0, done.err
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    run = client.get_run(done.json()["mlflow_run_id"])
    (trace,) = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    outputs = trace.data.spans[0].outputs
    assert (outputs["answer"].strip(), outputs["thinking"].strip()) == ("The answer is 21", THOUGHT)
