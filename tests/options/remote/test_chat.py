"""task=chat with a model on a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import warm_process
from api_standin import Api, Trouble

from runner.records.jobs import read_samples
from runner_base.result import Sample


def piped(folder: Path, said: str | bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=json", *arguments]
    data = said if isinstance(said, bytes) else said.encode()
    done = warm_process.complete(command, data, cwd=folder)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def samples(folder: Path) -> dict[int, Sample]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return read_samples(path)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_model_behind_an_api(tmp_path: Path) -> None:
    with Api() as server:
        done = piped(
            tmp_path, "Hi\n/stats\nHo\n", "model=api", f"model.base_url={server.url}", "model.name=tiny"
        )
    assert done.returncode == 0, done.stderr
    assert [sample.answer.text for sample in samples(tmp_path).values()] == ["I heard Hi", "I heard Ho"]
    assert "(unknown how many cached)" in done.stderr
    assert "tokens computed" not in done.stderr


def test_whom_no_first_turn_reaches_the_chat_ends_at_once(tmp_path: Path) -> None:
    with Api() as server:
        server.always = Trouble("status", 404, message="no model tiny")
        done = piped(
            tmp_path, "/stats\nHi\nHo\n", "model=api", f"model.base_url={server.url}", "model.name=tiny"
        )
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "no model tiny" in done.stderr
