"""A job that is interrupted while an answer is begun, and ends later with the same tokens."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import warm_process
from grids import wait_for

SAID = re.compile(
    r"interrupted: (\d+)(.*) kept, (\d+) unfinished kept for resuming, run the same command to resume"
)
STARTS = 8  # until one is interrupted while an answer is begun


def of_job(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the lines of a file of the only job in a folder."""
    return [
        json.loads(line) for path in folder.glob(f"jobs/*/{name}") for line in path.read_text().splitlines()
    ]


def answers(folder: Path) -> list[dict[str, Any]]:
    """Return what the job has answered, without what was measured."""
    lines, left_out = of_job(folder, "samples.jsonl"), ("seconds", "checksum", "calls")
    kept = [{key: it for key, it in line.items() if key not in left_out} for line in lines]
    return sorted(kept, key=lambda it: int(it["index"]))


def kill_when(condition: Callable[[], bool], folder: Path, words: Sequence[str]) -> None:
    """Start a job in a folder, and end it by SIGKILL as soon as the condition holds. It has no result then."""
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words, f"output_dir={folder}"],
        cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(condition)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    for result in folder.glob("jobs/*/result.json"):
        result.unlink()  # the job was quicker than the signal


def has_grown(folder: Path, log: str, before: list[dict[str, Any]]) -> Callable[[], bool]:
    """Return what says whether a file of a job has got new lines."""
    return lambda: len(of_job(folder, log)) > len(before)


def check_the_same_tokens(
    runner: Callable[..., Any], folder: Path, job: Sequence[str], log: str, sent: signal.Signals
) -> None:
    """Run a job whole and interrupted, the log being the file that grows with each answer; both
    have the same answers."""
    words = [*job, "model.dtype=float32", "tracking=none", "print=none"]
    done = runner(*words, f"output_dir={folder}/whole")
    assert done.code == 0, done.err
    interrupted = folder / "interrupted"
    partial: list[dict[str, Any]] = []
    for _ in range(STARTS):
        before = of_job(interrupted, log)
        process = warm_process.popen(
            [sys.executable, "-m", "runner", *words, f"output_dir={interrupted}"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(has_grown(interrupted, log, before))
        process.send_signal(sent)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 130, err
        assert of_job(interrupted, log)[: len(before)] == before, "nothing that is done is asked again"
        if partial := of_job(interrupted, "partial.jsonl"):
            break
    said = SAID.search(err)
    assert said is not None, err
    assert (int(said[1]), int(said[3])) == (len(answers(interrupted)), len(partial)), (
        "a job of agents says its questions"
    )
    kept = [choice for line in partial for choice in line["choices"]]
    assert any(choice["token_ids"] and choice["text"] for choice in kept)
    assert not {line["id"] for line in partial} & {line["index"] for line in answers(interrupted)}
    before = of_job(interrupted, log)
    done = runner(*words, f"output_dir={interrupted}")
    assert done.code == 0, done.err
    assert of_job(interrupted, log)[: len(before)] == before
    assert answers(interrupted) == answers(folder / "whole")
    assert not [*interrupted.glob("jobs/*/partial.jsonl")]
