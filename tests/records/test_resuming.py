"""An interrupted job says what it goes on from, and counts in the unit of its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Finished

from runner_base import Progress, dump_signed_line, progress

Run = Callable[..., Finished]
JOB = ("model=stub", "task=gsm8k", "task.limit=5", "tracking=none")


def interrupt(folder: Path, answers: int) -> Path:
    """Leave the first answers of the one job below a folder, as a kill does."""
    (job,) = (folder / "outputs" / "jobs").iterdir()
    (job / "result.json").unlink()
    lines = (job / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (job / "samples.jsonl").write_bytes(b"".join(lines[:answers]))
    return job


@pytest.mark.thorough
def test_a_job_says_that_it_resumes(runner: Run, tmp_path: Path) -> None:
    assert "resuming" not in runner(*JOB).err
    interrupt(tmp_path, 3)
    resumed = runner(*JOB)
    assert resumed.code == 0
    assert "resuming: 3 of 5 recorded\n" in resumed.err
    assert "resuming" not in runner(*JOB).err, "it is done"
    assert "resuming" not in runner(*JOB, "rerun=all").err


@pytest.mark.thorough
def test_answers_that_were_begun_are_counted(runner: Run, tmp_path: Path) -> None:
    runner(*JOB)
    begun = [
        dump_signed_line({"id": index, "prompt_sha256": "0", "choices": [{"token_ids": [1], "text": "a"}]})
        for index in (3, 4)
    ]
    (interrupt(tmp_path, 3) / "partial.jsonl").write_text("".join(f"{line}\n" for line in begun))
    assert "resuming: 3 of 5 recorded, 2 answers begun earlier" in runner(*JOB).err


@pytest.mark.thorough
def test_progress_counts_questions_as_the_plan_does(
    runner: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each question has four choices, and each choice is a request."""
    lines = '{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1}\n'
    (tmp_path / "two.jsonl").write_text(lines + lines.replace("Which", "What"))
    seen: list[tuple[float, float | None]] = []
    whole = Progress.set_completed_and_pending_steps

    def show_begun(bar: Progress, done: float, under_way: float, **news: str) -> None:
        seen.append((done, bar.total))
        whole(bar, done, under_way, **news)

    monkeypatch.setattr(progress.Progress, "set_completed_and_pending_steps", show_begun)
    data = ("task.data=two.jsonl", "task.choices_key=choices", "task.answer_key=answer")
    done = runner("model=stub", "task=likelihood", *data, "task.question_key=question", "tracking=none")
    assert done.code == 0, done.err
    assert seen[-1] == (2, 2)
