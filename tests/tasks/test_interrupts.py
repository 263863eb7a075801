"""Real interrupts of real jobs: what is begun is kept, and the next start ends it with the same
tokens."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from interrupts import answers, check_the_same_tokens

JOBS = {
    "gsm8k": ("task=gsm8k", "task.limit=12", "generation.batch_size=3"),
    "sampled": (
        "task=gsm8k",
        "task.limit=8",
        "task.samples=2",
        "generation=sampling",
        "generation.batch_size=3",
    ),
}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "Slurm's warning"])
@pytest.mark.parametrize("name", JOBS)
def test_what_was_begun_goes_on_with_the_same_tokens(
    runner: Callable[..., Any], tmp_path: Path, name: str, sent: signal.Signals
) -> None:
    check_the_same_tokens(runner, tmp_path, JOBS[name], "samples.jsonl", sent)


@pytest.mark.thorough
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
    words = [
        "model=stub",
        "task.limit=9",
        "model.delay_s=0.3",
        "tracking=none",
        f"output_dir={tmp_path}/here",
    ]
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
