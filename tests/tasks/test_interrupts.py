"""Real interrupts of real jobs: what is begun is kept, and the next start ends it with the same tokens."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for

SAID = re.compile(r"interrupted: (\d+)(.*) kept, (\d+) unfinished kept for resuming, run the same command to resume")
STARTS = 8  # until one is interrupted while an answer is begun
JOBS = {
    "gsm8k": ("task=gsm8k", "task.limit=12", "generation.batch_size=3"),
    "sampled": ("task=gsm8k", "task.limit=8", "task.samples=2", "generation=sampling", "generation.batch_size=3"),
    "agents": ("task=agents", "task.limit=3", "lora=embedded_team", "task.domain=brief", "generation.batch_size=3"),
}


def of_job(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the lines of a file of the only job in a folder."""
    return [json.loads(line) for path in folder.glob(f"jobs/*/{name}") for line in path.read_text().splitlines()]


def answers(folder: Path) -> list[dict[str, Any]]:
    """Return what the job has answered, without what was measured."""
    lines, left_out = of_job(folder, "samples.jsonl"), ("seconds", "checksum", "calls")
    kept = [{key: it for key, it in line.items() if key not in left_out} for line in lines]
    return sorted(kept, key=lambda it: int(it["index"]))


def has_grown(folder: Path, log: str, before: list[dict[str, Any]]) -> Callable[[], bool]:
    """Return what says whether a file of a job has got new lines."""
    return lambda: len(of_job(folder, log)) > len(before)


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "Slurm's warning"])
@pytest.mark.parametrize("name", JOBS)
def test_what_was_begun_goes_on_with_the_same_tokens(
    runner: Callable[..., Any], tmp_path: Path, name: str, sent: signal.Signals
) -> None:
    log = "calls.jsonl" if name == "agents" else "samples.jsonl"
    words = [*JOBS[name], "model.dtype=float32", "tracking=none", "print=none"]
    done = runner(*words, f"output_dir={tmp_path}/whole")
    assert done.code == 0, done.err
    folder = tmp_path / "interrupted"
    partial: list[dict[str, Any]] = []
    for _ in range(STARTS):
        before = of_job(folder, log)
        process = warm_process.popen(
            [sys.executable, "-m", "runner", *words, f"output_dir={folder}"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(has_grown(folder, log, before))
        process.send_signal(sent)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 130, err
        assert of_job(folder, log)[: len(before)] == before, "nothing that is done is asked again"
        if partial := of_job(folder, "partial.jsonl"):
            break
    said = SAID.search(err)
    assert said is not None, err
    assert (int(said[1]), int(said[3])) == (len(answers(folder)), len(partial)), "a job of agents says its questions"
    kept = [choice for line in partial for choice in line["choices"]]
    assert any(choice["token_ids"] and choice["text"] for choice in kept)
    assert not {line["id"] for line in partial} & {line["index"] for line in answers(folder)}
    before = of_job(folder, log)
    done = runner(*words, f"output_dir={folder}")
    assert done.code == 0, done.err
    assert of_job(folder, log)[: len(before)] == before
    assert answers(folder) == answers(tmp_path / "whole")
    assert not [*folder.glob("jobs/*/partial.jsonl")]


def test_a_partial_file_that_is_damaged_is_no_evidence(runner: Callable[..., Any], tmp_path: Path) -> None:
    words = ["task=gsm8k", "task.limit=2", "tracking=none", "print=none", f"output_dir={tmp_path}/here"]
    assert runner(*words, "model.dtype=float32").code == 0
    whole = answers(tmp_path / "here")
    (job,) = (tmp_path / "here" / "jobs").glob("*-*")
    for name in ("samples.jsonl", "result.json"):
        (job / name).unlink()
    lines = ["not JSON", '{"id": 0}', '{"id": 0, "prompt_sha256": "x", "choices": [], "checksum": "0"}']
    (job / "partial.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    done = runner(*words, "model.dtype=float32")
    assert done.code == 0, done.err
    assert answers(tmp_path / "here") == whole
    assert not (job / "partial.jsonl").exists()


@pytest.mark.slow
def test_an_engine_that_cannot_go_on_says_that_it_asks_again(tmp_path: Path) -> None:
    words = ["model=stub", "task.limit=9", "model.delay_s=0.3", "tracking=none", f"output_dir={tmp_path}/here"]
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(answers(tmp_path / "here")) >= 2)
    process.terminate()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    count = len(answers(tmp_path / "here"))
    assert f"interrupted: {count} kept" in err
    assert "kept for resuming" not in err
    assert not [*(tmp_path / "here").glob("jobs/*/partial.jsonl")]
