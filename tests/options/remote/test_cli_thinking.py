"""Models on a server that think, as a user sees them: verdicts, counts and notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

from runner.datasets.questions import load_questions
from runner.tasks.gsm8k.keys import Gsm8kConfig

Run = Callable[..., Any]
ITEMS = {item.question: item for item in load_questions(Gsm8kConfig(limit=8))}
SERVER = ("model=api", "model.name=tiny", "model.backoff_s=0.01", "tracking=none", "print=json")


def asked(body: dict[str, Any]) -> Any:
    return ITEMS[str(body["messages"][-1]["content"]).split("\n\n")[0]]


def samples(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda it: it["index"])


def result(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("outputs/jobs/*/result.json")
    content: dict[str, Any] = json.loads(file.read_text())["result"]
    return content


@pytest.mark.thorough
def test_only_what_follows_the_thinking_is_judged(runner: Run, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        gold = asked(body).gold
        ways = [
            f"<think>#### 99999</think>The sum is {gold}.\n#### {gold}",
            f"so #### 99999</think>The sum is {gold}.\n#### {gold}",
            f"<think>so #### {gold} hmm maybe more",
            f"<think>so #### {gold} hmm " + "and " * 300,
        ]
        return ways[list(ITEMS).index(asked(body).question) % 4]

    with Api(answer) as api:
        done = runner(*SERVER, f"model.base_url={api.url}", "task.limit=8", "generation.max_new_tokens=64")
    assert done.code == 0, done.err
    verdicts = [one["verdict"] for one in samples(tmp_path)]
    assert verdicts == ["correct", "correct", "cut_off", "cut_off"] * 2
    metrics = done.json()["metrics"]
    assert (metrics["thinking_removed"], metrics["cut_off_thinking"], metrics["stopped_by_length"]) == (
        4,
        4,
        2,
    )
    assert [metrics[f"accuracy/{by}"] for by in ("strict", "flexible")] == [0.5, 0.5]
    notes = result(tmp_path)["notes"]
    assert "only the text after the thinking was judged in 4 answers" in notes
    assert any(note.startswith("4 answers reached the token limit during thinking") for note in notes)


@pytest.mark.thorough
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_that_a_server_sends_apart_is_kept_and_not_judged(
    runner: Run, tmp_path: Path, field: str
) -> None:
    with Api(lambda body: f"so #### {asked(body).gold}") as api:
        api.thinking = field, lambda body: f"I guess {asked(body).position} #### 99999"
        common = (*SERVER, f"model.base_url={api.url}", "task.limit=4", "task.check_invariance=0")
        done = runner(*common)
        cut_off = runner(*common, "generation.max_new_tokens=3", f"output_dir={tmp_path}/short")
    assert done.code == 0, done.err
    kept = samples(tmp_path)
    assert [one["verdict"] for one in kept] == ["correct"] * 4
    assert [one["thinking"] for one in kept] == [f"I guess {place} #### 99999" for place in range(4)]
    assert [one["text"] for one in kept] == [f"so #### {item.gold}" for item in list(ITEMS.values())[:4]]
    assert [one["new_tokens"] for one in kept] == [8] * 4, "the tokens of the thinking count"
    assert done.json()["metrics"]["thinking_removed"] == 4
    assert "only the text after the thinking was judged in 4 answers" in result(tmp_path)["notes"]
    metrics = cut_off.json()["metrics"]
    assert (metrics["cut_off"], metrics["cut_off_thinking"], metrics["thinking_removed"]) == (4, 4, 0)


@pytest.mark.thorough
def test_thinking_apart_of_several_answers_votes_by_its_answers(runner: Run, tmp_path: Path) -> None:
    with Api(lambda body: f"#### {asked(body).gold}") as api:
        api.thinking = "reasoning_content", lambda _: "#### 99999"
        done = runner(
            *SERVER,
            f"model.base_url={api.url}",
            "task.limit=2",
            "task.samples=3",
            "generation.temperature=0.5",
        )
    assert done.code == 0, done.err
    assert [one["thinking"] for line in samples(tmp_path) for one in line["choices"]] == ["#### 99999"] * 6
    assert done.json()["metrics"]["accuracy"] == 1
    assert done.json()["metrics"]["thinking_removed"] == 6
