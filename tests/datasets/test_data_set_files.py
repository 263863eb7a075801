"""Data sets that a user has described in one file: a set of the hub with a subset, and choices by
letter."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_standin import Hub, environment
from pyarrow import parquet

from runner.config.choices import CONF
from runner.records.jobs import read_samples
from runner_base.result import Verdict

ROWS = [
    {"stem": "Sky? I hear the answer is (B).", "options": ["green", "blue"], "key": "B"},
    {"stem": "Grass? I hear the answer is (B).", "options": ["green", "blue"], "key": "A"},
]
QUIZ = """# A quiz with two choices.
data: {data}
subset: {subset}
split: validation
question_key: stem
answer_key: key
choices_key: options
extractor: the_answer_is
"""
CARD = "---\nconfigs:\n" + "".join(
    f"- config_name: {name}\n  data_files:\n  - split: validation\n    path: {name}/validation-*\n"
    for name in ("easy", "hard")
)


def table(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def describe(folder: Path, data: str, subset: str = "null") -> None:
    (folder / "mine" / "dataset").mkdir(parents=True)
    (folder / "mine" / "dataset" / "quiz.yaml").write_text(QUIZ.format(data=data, subset=subset))


def run(folder: Path, *arguments: str, **settings: str) -> Path:
    """Run a job on the quiz; return its folder."""
    asked = ["-cd", "mine", "model=stub", "task.data=quiz", "tracking=none", "print=none", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *asked],
        cwd=folder, env=environment(folder, **settings), capture_output=True, text=True, timeout=2000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (job,) = (folder / "outputs" / "jobs").glob("*/result.json")
    return job.parent


@pytest.mark.thorough
@pytest.mark.slow
def test_a_set_of_the_hub_with_a_subset(tmp_path: Path) -> None:
    files = {
        f"{name}/validation-00000-of-00001.parquet": table(ROWS[:count])
        for name, count in (("easy", 1), ("hard", 2))
    }
    with Hub(files | {"README.md": f"{CARD}---\n".encode()}) as hub:
        describe(tmp_path, "org/open", "hard")
        job = run(tmp_path, HF_ENDPOINT=hub.url)
    samples = read_samples(job / "samples.jsonl")
    assert [sample.question for sample in samples.values()] == [
        "Sky? I hear the answer is (B).\nA. green\nB. blue",
        "Grass? I hear the answer is (B).\nA. green\nB. blue",
    ]
    verdicts = [(one.gold, one.answer.verdict) for one in samples.values()]
    assert verdicts == [("B", Verdict.correct), ("A", Verdict.wrong)]
    # the record needs no file of the user's
    assert "subset: hard" in (job / "config.yaml").read_text()


@pytest.mark.thorough
@pytest.mark.slow
def test_gsm8k_platinum_is_read_as_the_hub_has_it(tmp_path: Path) -> None:
    shipped = (CONF / "dataset" / "gsm8k_platinum.yaml").read_text()
    rows = [
        {
            "question": f"{number}? I hear the answer is 7.",
            "answer": f"<<3+4=7>>\n#### {gold}",
            "cleaning_status": status,
        }
        for number, (gold, status) in enumerate([("7", "consensus"), ("8", "revised"), ("7", "verified")])
    ]
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n---\n"
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    assert "data: madrylab/gsm8k-platinum\n" in shipped
    with Hub({"main/test-00000-of-00001.parquet": table(rows), "README.md": card.encode()}) as hub:
        standin = shipped.replace("madrylab/gsm8k-platinum", "org/open") + "extractor: flexible\n"
        (tmp_path / "mine" / "dataset" / "quiz.yaml").write_text(standin)
        job = run(tmp_path, HF_ENDPOINT=hub.url)
    samples = read_samples(job / "samples.jsonl")
    assert [sample.question for sample in samples.values()] == [row["question"] for row in rows]
    assert [sample.gold for sample in samples.values()] == ["7", "8", "7"]
    assert "shots_data: openai/gsm8k" in (job / "config.yaml").read_text(), "it has no train split"


@pytest.mark.thorough
def test_choices_by_letter_in_a_file_beside(tmp_path: Path) -> None:
    describe(tmp_path, "./quiz.jsonl")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "mine" / "dataset" / "quiz.jsonl").write_text(lines)
    result = json.loads((run(tmp_path) / "result.json").read_text())["result"]
    assert result["metrics"]["accuracy"] == 0.5


def test_the_same_file_for_likelihoods(tmp_path: Path) -> None:
    describe(tmp_path, "./quiz.jsonl")
    (tmp_path / "mine" / "dataset" / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    samples = read_samples(run(tmp_path, "task=likelihood") / "samples.jsonl")
    assert {(one.question, one.gold) for one in samples.values()} == {
        (row["stem"], text) for row in ROWS for text in ("green", "blue")
    }
