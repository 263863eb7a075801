"""model=vllm with a server that starts: the stand-in for vLLM is task=serve; needs both options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from vllm_standin import VllmStandIn, is_alive, vllm_keys

from runner.options.remote.vllm import comparison
from runner.records.jobs import read_samples

Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "task.limit=6", "generation.max_new_tokens=48")
WAIT_S = 120


def samples(folder: Path) -> list[tuple[int, str]]:
    return sorted((index, sample.answer.text) for path in folder.glob("outputs/jobs/*/samples.jsonl")
                  for index, sample in read_samples(path).items())  # fmt: skip


def servers(standin: VllmStandIn) -> list[int]:
    """Return the processes of all servers that were started, and of their helpers."""
    pids = [json.loads(line)["pid"] for line in standin.started]
    helper = standin.site / "helper"
    return pids + ([int(helper.read_text())] if helper.exists() else [])


def wait_until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_starts_one_server_and_gets_the_answers_of_the_local_engine(
    runner: Run, tmp_path: Path
) -> None:
    standin = VllmStandIn(tmp_path / "env")
    done = runner("-m", *JOB, *vllm_keys(standin), "seed=0,1")
    assert done.code == 0, done.err
    assert len(standin.started) == 1, "both jobs have the same base"
    assert not any(map(is_alive, servers(standin))), "nothing is left running"
    argv = json.loads(standin.started[0])["argv"]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    here = tmp_path / "here"
    here.mkdir()
    assert runner(*JOB, "model.dtype=float32", "model.device=cpu", cwd=here).code == 0
    assert samples(tmp_path) == sorted(2 * samples(here))
    results = [json.loads(path.read_text())["result"] for path in tmp_path.glob("outputs/jobs/*/result.json")]
    for result in results:
        facts = result["facts"]
        assert facts["engine"] == "vLLM 0.32.0 on the CPU"
        assert facts["flags"] == "--dtype float32"
        assert '"stream_interval": 16' in facts["sent"], "nobody watches the text as it comes"
        assert re.match(
            r"with transformers in float32: .* differ by \S+ nats per token on average", facts["compared"]
        )
        assert not any("cannot be hashed" in note for note in result.get("notes", []))
    logs = list(tmp_path.glob("outputs/jobs/*/vllm.log"))
    assert len(logs) == 2, "the log lies beside each job"
    key = re.compile(r"[\w-]{32}")
    assert not any(key.search(path.read_text()) for path in tmp_path.glob("outputs/jobs/*/config.yaml"))


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_dies_amid_a_grid_fails_one_job_and_loses_nothing(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    grid = (
        "-m",
        "tracking=none",
        "task.limit=12",
        *vllm_keys(standin, "model.compare=false", "model.concurrency=2"),
    )
    process = start(tmp_path, *grid, "seed=0,1")
    wait_until(lambda: len(samples(tmp_path)) >= 2)
    os.kill(servers(standin)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, err
    assert "vLLM 0.32.0 on the CPU was killed by SIGKILL" in out + err
    assert "Completed answers are saved. Run the same command to resume" in out + err
    kept = samples(tmp_path)
    assert 12 + 2 <= len(kept) < 24, "the second job got a new server"
    assert len(standin.started) == 2
    assert not any(map(is_alive, servers(standin)))
    again = runner(*grid, "seed=0,1")
    assert again.code == 0, again.err
    assert len(samples(tmp_path)) == 24
    assert set(kept) <= set(samples(tmp_path))


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("grid", [False, True])
def test_a_runner_that_dies_takes_its_server_along(tmp_path: Path, number: int, grid: bool) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    job = (
        "tracking=none",
        "task.limit=40",
        *vllm_keys(standin, "model.compare=false", "model.concurrency=2"),
    )
    process = start(tmp_path, *(("-m", "seed=0,1") if grid else ()), *job)
    wait_until(lambda: len(samples(tmp_path)) >= 2)
    alive = servers(standin)
    assert all(map(is_alive, alive)), "the control"
    os.kill(process.pid, number)
    process.communicate(timeout=WAIT_S)
    wait_until(lambda: not any(map(is_alive, servers(standin))))
    assert 2 <= len(samples(tmp_path)) < 40, "what was answered is kept"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the runner as a process that can be killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "runner", *arguments]
    return warm_process.popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_a_server_that_computes_another_model_is_refused_with_both_figures(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whatever it is asked, a token has a log-probability of -1
    standin = VllmStandIn(tmp_path / "env", "stub")
    done = runner("tracking=none", *JOB[2:], *vllm_keys(standin))
    assert done.code == 2, done.err
    assert "and transformers tokenize the same text differently" in done.err
    assert re.search(r"vLLM: \d+ tokens \[.*transformers: \d+ tokens \[", done.err), (
        "the stub's tokens are words"
    )
    monkeypatch.setattr(comparison, "check_same_tokens", lambda *_: None)
    monkeypatch.setattr("runner.options.remote.started.engine.wrong", {})
    done = runner("tracking=none", *JOB[2:], *vllm_keys(standin))
    assert done.code == 2, done.err
    assert "computes other values than transformers" in done.err
    assert re.search(
        r"The mean per token is -1\.0000 with vLLM and -\d\.\d+ with transformers in float32", done.err
    )
    assert not any(map(is_alive, servers(standin)))
