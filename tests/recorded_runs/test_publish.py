"""--publish: files that the Hub's own library reads, with commands that find the very jobs; what
cannot be published."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries
from likely import jsonl
from raising import raises

from runner import compare
from runner.recorded_runs.publish import RESULTS, validate_hub_eval_result
from runner_base.errors import ConfigError

QUESTIONS = [
    {
        "question": f"What is {number} + 1?",
        "choices": [str(number + at) for at in range(4)],
        "answer": number % 4,
    }
    for number in range(12)
]
HUB = {"dataset": {"id": "Idavidrein/gpqa", "task_id": "gpqa_diamond"}, "value": 41.2}


@pytest.fixture
def published(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    def publish(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = compare.main(
            ["--output-dir", str(tmp_path / "outputs"), "--publish", str(tmp_path / "pub"), *arguments]
        )
        return code, capsys.readouterr().err

    return publish


def test_the_files_follow_the_schema_and_their_commands_find_the_jobs(
    runner: Callable[..., Any], published: Callable[..., Any], tmp_path: Path
) -> None:
    data = jsonl(tmp_path / "sums.jsonl", QUESTIONS)
    done = runner("-m", "model=stub", f"task.data={data}", "task.rotate=2", "model.answer='#### A','#### B'")
    assert done.code == 0, done.err
    code, err = published("--benchmark", "Idavidrein/gpqa:gpqa_diamond", "--baseline", "model.answer=#### A")
    assert code == 0, err
    assert "nothing was uploaded" in err
    files = sorted((tmp_path / "pub").rglob(".eval_results/*.yaml"))
    assert [file.name for file in files] == ["Idavidrein--gpqa.yaml"] * 2
    named: list[str] = []
    recorded = {folder.name for folder in (tmp_path / "outputs" / "jobs").iterdir()}
    for file in files:
        content = yaml.safe_load(file.read_text())
        (entry,) = parse_eval_result_entries(content)
        assert eval_result_entries_to_yaml([entry]) == content
        assert (entry.dataset_id, entry.task_id, entry.value) == ("Idavidrein/gpqa", "gpqa_diamond", 25.0)
        form = re.search(
            r"95 % interval \d+\.\d to \d+\.\d, n = 24 in 12 clusters, prompt format ([0-9a-f]{12}),",
            entry.notes or "",
        )
        assert form
        card = (file.parents[1] / "evaluation.md").read_text()
        assert "| 24 in 12 clusters | 25.0% | " in card
        assert f"| {form[1]} |" in card
        command = next(line.strip() for line in card.splitlines() if line.startswith("    runner "))
        assert (entry.notes or "").endswith(command)
        again = runner(*shlex.split(command)[1:], "print=json")
        assert again.code == 0, again.err
        named.append(again.json()["job_id"])
    assert set(named) == recorded
    assert {folder.name for folder in (tmp_path / "outputs" / "jobs").iterdir()} == recorded, (
        "no job is a new one"
    )
    cards = [file.read_text() for file in sorted((tmp_path / "pub").rglob("evaluation.md"))]
    assert sum("the baseline" in card for card in cards) == 1
    assert any(re.search(r"[+-]\d+\.\d points compared with gsm8k-\w+ \(95 % ", card) for card in cards)


def test_data_that_are_no_benchmark_get_a_card_and_no_entry(
    runner: Callable[..., Any], published: Callable[..., Any], tmp_path: Path
) -> None:
    assert runner("model=stub", "task.limit=4").code == 0
    code, err = published()
    assert code == 0, err
    assert "task.data=embedded is not a data set on the Hub" in err
    assert [file.name for file in (tmp_path / "pub").rglob("*") if file.is_file()] == ["evaluation.md"]
    code, err = published("--benchmark", "gpqa")
    assert code == 2
    assert "--benchmark gpqa: give DATASET_ID:TASK_ID" in err
    code, err = published("--results", "x")
    assert code == 2
    assert "leave out --results" in err


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": None}, "value (None)"),
        ({"value": True}, "value (True)"),
        ({"dataset": {"id": "Idavidrein/gpqa"}}, "dataset.task_id (None)"),
        ({"dataset": {"id": "gpqa", "task_id": "x"}}, "dataset.id (gpqa)"),
        ({"source": {"name": "logs"}}, "source.url (None)"),
        ({"date": "yesterday"}, "date (yesterday)"),
        ({"interval": [1, 2]}, "interval ([1, 2])"),
    ],
)
def test_an_entry_that_breaks_the_schema_is_refused(change: dict[str, Any], field: str) -> None:
    validate_hub_eval_result(HUB)
    validate_hub_eval_result(
        HUB | {"date": "2026-11-26", "source": {"url": "https://x", "org": "y"}, "verifyToken": "z"}
    )
    with raises(ConfigError, "bad_value", RESULTS) as refused:
        validate_hub_eval_result(HUB | change)
    assert refused.value.reason.startswith(field)
