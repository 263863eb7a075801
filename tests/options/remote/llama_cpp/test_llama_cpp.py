"""model=llama_cpp with the real llama.cpp, of xllamacpp: the answers and likelihoods of our own
engine, and what computes something else is found and named."""

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
from real_llama_cpp import embedded_file, needs_llama_cpp, real_keys, with_outliers
from vllm_standin import is_alive

from runner.records.jobs import read_samples

pytestmark = [pytest.mark.slow, needs_llama_cpp]
Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "generation.max_new_tokens=96")
HERE = ("model=local", "quantization=gguf", "model.dtype=float32", "model.device=cpu")
WAIT_S = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_file(tmp_path_factory.mktemp("model"))


def samples(folder: Path) -> list[Any]:
    return [sample for path in folder.glob("outputs/jobs/*/samples.jsonl")
            for _, sample in sorted(read_samples(path).items())]  # fmt: skip


def run_in(runner: Run, folder: Path, *keys: str) -> list[Any]:
    """Run a job in a folder of its own; it must end well. Return its samples."""
    folder.mkdir(exist_ok=True)
    done = runner(*keys, cwd=folder)
    assert done.code == 0, done.err
    return samples(folder)


def facts(folder: Path) -> dict[str, str]:
    (path,) = folder.glob("outputs/jobs/*/result.json")
    found: dict[str, str] = json.loads(path.read_text())["result"]["facts"]
    return found


def test_its_answers_are_those_of_our_engine(runner: Run, tmp_path: Path, model: Path) -> None:
    job = (*JOB, "task.limit=24")
    there = run_in(runner, tmp_path / "there", *job, *real_keys(model, "model.parallel=2"))
    here = run_in(runner, tmp_path / "here", *job, *HERE, f"model.name={model}")
    assert len(here) == 24
    assert [sample.answer.text for sample in there] == [sample.answer.text for sample in here]
    assert [sample.prompt_sha256 for sample in there] == [sample.prompt_sha256 for sample in here]
    assert [sample.prompt_tokens for sample in there] == [sample.prompt_tokens for sample in here]
    said = facts(tmp_path / "there")
    assert re.fullmatch(r"llama.cpp of xllamacpp [\d.]+ on .+", said["engine"])
    compared = r"compared with the runner's engine: .* at 128 of 128 positions, .*289 test texts identically, and 4 chats.*"
    assert re.fullmatch(compared, said["compared"])


@pytest.mark.parametrize("prompt", ["chat", "text"])
def test_its_likelihoods_are_those_of_our_engine(
    runner: Run, tmp_path: Path, model: Path, prompt: str
) -> None:
    """The server tells no log-probabilities of a prompt: each token is forced as the next one."""
    job = (
        "tracking=none",
        "print=json",
        "task=likelihood",
        "task.data=embedded",
        "task.limit=8",
        f"task.prompt={prompt}",
    )
    there = run_in(runner, tmp_path / "there", *job, *real_keys(model))
    here = run_in(runner, tmp_path / "here", *job, *HERE, f"model.name={model}")
    assert len(here) == len(there) == 8
    for own, other in zip(here, there, strict=True):
        assert other.likelihood.tokens == own.likelihood.tokens
        assert other.likelihood.nats == pytest.approx(own.likelihood.nats, abs=0.02)


def test_generate_and_several_answers(runner: Run, tmp_path: Path, model: Path) -> None:
    job = ("tracking=none", "print=json", "task=generate", "task.prompt='1 + 1'", "generation.max_new_tokens=8")  # fmt: skip
    there = run_in(runner, tmp_path / "there", *job, *real_keys(model))
    here = run_in(runner, tmp_path / "here", *job, *HERE, f"model.name={model}")
    assert [sample.answer.text for sample in there] == [sample.answer.text for sample in here]
    drawn = ("generation=sampling", "generation.top_k=7", "task.samples=3", "task.limit=2")
    votes = run_in(runner, tmp_path / "votes", *JOB, *drawn, *real_keys(model))
    assert [len(sample.choices) for sample in votes] == [3, 3]
    too_many = runner(*JOB, "generation=sampling", "task.samples=5", *real_keys(model))
    assert too_many.code == 2
    assert "task.samples=5: llama.cpp samples all answers to a prompt in parallel" in too_many.err


@pytest.mark.parametrize(
    ("flag", "how", "named"),
    [
        ("--rope-freq-scale,0.9", r"differ too much from .* the runner's engine: .* \d+ of 128 positions", ""),
        ("--chat-template,'{{ messages[0].content }}'", "renders a chat as .*, but the file's template renders it as", "--chat-template,{{"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_found_and_named(runner: Run, model: Path, flag: str, how: str, named: str) -> None:
    done = runner(*JOB, "task.limit=2", *real_keys(model, f"model.flags=[{flag}]"))
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
    assert re.search(how, done.err)
    assert f"Omit model.flags=[{named or flag}" in done.err


def test_keys_in_four_bits_are_refused_where_they_break_the_model(
    runner: Run, tmp_path: Path, model: Path
) -> None:
    broken = with_outliers(tmp_path)
    job = (*JOB, "task.limit=2")
    done = runner(*job, *real_keys(broken, "model.kv_keys=q4_0"))
    assert done.code == 2, done.err
    assert "differ too much from the results of the runner's engine" in done.err
    assert "Omit model.kv_keys=q4_0, because" in done.err
    run_in(runner, tmp_path / "plain", *job, *real_keys(broken))
    run_in(runner, tmp_path / "sound", *job, *real_keys(model, "model.kv_keys=q4_0"))


def test_a_file_that_both_read_as_other_tokens_is_refused(runner: Run, tmp_path: Path) -> None:
    """One that does not say where a text may be cut: both take another pattern for it."""
    file = embedded_file(tmp_path)
    name = b"tokenizer.ggml.pre"
    file.write_bytes(file.read_bytes().replace(name, b"tokenizer.ggml.odd", 1))
    done = runner(*JOB, "task.limit=2", *real_keys(file))
    assert done.code == 2, done.err
    assert re.search(r"tokenizes .* as \d+ tokens \(position \d+ and following: .* but the runner's engine as", done.err)  # fmt: skip
    assert "The file has no tokenizer.ggml.pre" in done.err


@pytest.mark.parametrize("victim", ["server", "runner"])
def test_after_a_kill_the_answers_are_the_same(runner: Run, tmp_path: Path, model: Path, victim: str) -> None:
    job = ("tracking=none", "task.limit=48", *real_keys(model, "model.parallel=1"))
    whole = run_in(runner, tmp_path / "whole", *job)
    (tmp_path / "killed").mkdir()
    process = start(tmp_path / "killed", *job)
    end = time.monotonic() + WAIT_S
    while len(samples(tmp_path / "killed")) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    servers = children_of(process.pid)
    assert any(map(is_alive, servers)), "the control"
    os.kill(servers[-1] if victim == "server" else process.pid, signal.SIGKILL)
    process.communicate(timeout=WAIT_S)
    while any(map(is_alive, servers)):
        assert time.monotonic() < end, "something is left running"
        time.sleep(0.05)
    assert process.returncode != 0
    assert 3 <= len(samples(tmp_path / "killed")) < 48
    again = run_in(runner, tmp_path / "killed", *job)
    assert len(again) == 48
    assert [each.answer.text for each in again] == [each.answer.text for each in whole]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the runner as a process that can be killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "runner", *arguments]
    return warm_process.popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def children_of(parent: int) -> list[int]:
    """Return the processes that a process has started, and theirs; the last one is the youngest."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, fresh = list[int](), [parent]
    while fresh:
        fresh = sorted(pid for pid, owner in parents.items() if owner in fresh)
        found += fresh
    return found
