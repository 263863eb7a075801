"""model=vllm from its start to its end, with a stand-in for vLLM: our own server, or a program that fails as vLLM does.

What only the real one can show is in tests/options/remote/vllm/test_vllm.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from vllm_standin import VllmStandIn, is_alive

from runner.options.remote.vllm import comparison
from runner.store.jobs import read_samples

Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "task.limit=6", "generation.max_new_tokens=48")
WAIT_S = 120


def vllm_keys(standin: VllmStandIn, *more: str) -> tuple[str, ...]:
    return ("model=vllm", "model.name=embedded", "model.dtype=float32", f"model.python={standin.python}", *more)


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


@pytest.mark.slow
def test_a_grid_starts_one_server_and_gets_the_answers_of_the_local_engine(runner: Run, tmp_path: Path) -> None:
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
        assert re.match(r"with transformers in float32: \S+ nats for a token on average", facts["compared"])
        assert not any("cannot be hashed" in note for note in result.get("notes", []))
    logs = list(tmp_path.glob("outputs/jobs/*/vllm.log"))
    assert len(logs) == 2, "the log lies beside each job"
    key = re.compile(r"[\w-]{32}")
    assert not any(key.search(path.read_text()) for path in tmp_path.glob("outputs/jobs/*/config.yaml"))


def test_a_jobs_id_holds_version_and_flags(runner: Run, tmp_path: Path) -> None:
    def job_id(*more: str, version: str = "0.32.0", task: tuple[str, ...] = ()) -> str:
        standin = VllmStandIn(tmp_path / f"env{len(ids)}", version=version)
        planned = runner("-m", *JOB, *vllm_keys(standin, *more), *task, "plan=quick")
        assert planned.code == 0, planned.err
        (found,) = set(re.findall(r"gsm8k-[0-9a-f]{12}", planned.out))
        ids.append(found)
        return str(found)

    ids: list[str] = []
    first = job_id()
    assert job_id("model.memory_share=0.02", "model.concurrency=9") == first, "inert"
    others = [job_id(version="0.33.0"), job_id("model.args=[--enforce-eager]"), job_id("model.tensor_parallel=2"),
              job_id("quantization=fp8"), job_id("model.max_positions=512")]  # fmt: skip
    own = re.search(r"gsm8k-[0-9a-f]{12}", runner("-m", *JOB, "model.dtype=float32", "plan=quick").out)
    assert own is not None
    assert len({first, *others, own[0]}) == 7


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("rope=rope_2d",), "rope=rope_2d: vLLM takes rope=native only"),
        (("lora=embedded_pth",), "lora=pth: vLLM reads PEFT adapters, no .pth"),
        (("lora=embedded", "lora.merge=true"), "lora.merge=True: vLLM keeps adapters beside the weights"),
        (("quantization=nf4", "quantization.skip=[layers.0]"), "vLLM quantizes all layers alike"),
        (("quantization=nf4",), "quantization=nf4: vLLM quantizes a plain checkpoint with none or fp8"),
        (("quantization=fp8", "model.quantization=mxfp8"), "model.quantization=mxfp8: quantization=fp8 says it, too"),
        (("model.quantization=nf4",), "model.quantization=nf4: vLLM 0.32.0 on the CPU has awq, fp8, mxfp8"),
        (("generation.kv_cache=int8",), "vLLM keeps keys and values itself"),
        (("generation.thinking_tokens=9",), "give model.reasoning_parser=WORD"),
        (("task=memory",), "memory on this machine, which this engine does not offer"),
        (("task=split", "task.output_dir=x"), "task=split needs weights"),
        (("task=likelihood", "task.keep_top_k=4"), "a tokenizer on this machine, which this engine does not offer"),
        (("model.args=[--dtype=float16]",), "model.args=--dtype=float16: model.dtype says it"),
        (("model.args=[--quant,fp8]",), "model.args=--quant: quantization says it"),
        (("model.args=[-tp,2]",), "model.args=-tp: model.tensor_parallel says it"),
        (("model.args=[--no_enable_lora]",), "model.args=--no_enable_lora: lora says it"),
        (("model.args=['--hf-overrides.rope_theta',1]",), "would make the record wrong"),
        (("model.args=[--load-format,dummy]",), "would make the record wrong"),
        (("model.args=[--api-key,x]",), "the runner gives it to its own server"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_anything_starts(
    runner: Run, tmp_path: Path, keys: tuple[str, ...], message: str
) -> None:
    standin = VllmStandIn(tmp_path / "env")
    job = () if any(key.startswith("task=") for key in keys) else JOB[2:]
    done = runner("tracking=none", *job, *vllm_keys(standin), *keys)
    assert done.code == 2, done.err
    assert message in done.err
    assert not standin.started


def test_branches_are_refused(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env")
    branches = ("task=generate", "task.prompt=x", "task.branches=[a,b]")
    done = runner("tracking=none", *vllm_keys(standin), *branches)
    assert done.code == 2
    assert "branches" in done.err
    assert not standin.started


def test_words_that_only_look_like_others_pass(runner: Run, tmp_path: Path) -> None:
    words = (
        "model.args=[--max-num-seqs,64,--enforce-eager,--data-parallel-size-local,2,--distributed-executor-backend,ray]"
    )
    done = runner(*vllm_keys(VllmStandIn(tmp_path / "env"), words), "--cfg", "job")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        ("broken", 1, "ended with exit code 1 while it started\n    | ValueError: the wheels came off\n    log: "),
        ("no_memory", 1, "it has not enough memory. Use a smaller model.max_positions"),
        (
            "bad_words",
            2,
            "rejects its command line\n    | api_server.py: error: unrecognized arguments: --no-such-word",
        ),
        ("port_taken", 2, "another program listens there"),
    ],
)
def test_a_server_that_does_not_start_is_one_message(
    runner: Run, tmp_path: Path, wish: str, code: int, message: str
) -> None:
    standin = VllmStandIn(tmp_path / "env", wish)
    done = runner("tracking=none", *JOB[2:], *vllm_keys(standin, "model.compare=false"))
    assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert message in done.err
    assert done.err.count("error:") - done.err.count("py: error:") == 1, done.err
    assert len(standin.started) == (3 if wish == "port_taken" else 1), "another port is tried"


def test_an_environment_without_vllm_or_with_an_old_one_is_named(runner: Run, tmp_path: Path) -> None:
    old, none = VllmStandIn(tmp_path / "old", version="0.9.2"), VllmStandIn(tmp_path / "none")
    none.remove()
    here = ("tracking=none", *JOB[2:])
    found = runner(*here, *vllm_keys(old))
    assert found.code == 2
    assert "has vLLM 0.9.2, and model=vllm needs 0.14 or newer" in found.err
    found = runner(*here, *vllm_keys(none))
    assert found.code == 2
    assert "has no vLLM" in found.err
    found = runner(*here, "model=vllm", "model.name=embedded", "model.python=./nowhere")
    assert found.code == 2
    assert "model.python=./nowhere: there is no" in found.err
    assert "make vllm" in found.err


def test_a_port_that_another_program_has_is_refused(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = runner("tracking=none", *JOB[2:], *vllm_keys(standin, "model.compare=false", f"model.port={port}"))
    assert done.code == 2
    assert f"model.port={port}: Address already in use on 127.0.0.1" in done.err
    assert not standin.started


@pytest.mark.slow
def test_a_server_that_dies_amid_a_grid_fails_one_job_and_loses_nothing(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    grid = ("-m", "tracking=none", "task.limit=12", *vllm_keys(standin, "model.compare=false", "model.concurrency=2"))
    process = start(tmp_path, *grid, "seed=0,1")
    wait_until(lambda: len(samples(tmp_path)) >= 2)
    os.kill(servers(standin)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, err
    assert "vLLM 0.32.0 on the CPU was killed by SIGKILL" in out + err
    assert "Completed answers are kept: run the same command to resume" in out + err
    kept = samples(tmp_path)
    assert 12 + 2 <= len(kept) < 24, "the second job got a new server"
    assert len(standin.started) == 2
    assert not any(map(is_alive, servers(standin)))
    again = runner(*grid, "seed=0,1")
    assert again.code == 0, again.err
    assert len(samples(tmp_path)) == 24
    assert set(kept) <= set(samples(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("grid", [False, True])
def test_a_runner_that_dies_takes_its_server_along(tmp_path: Path, number: int, grid: bool) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    job = ("tracking=none", "task.limit=40", *vllm_keys(standin, "model.compare=false", "model.concurrency=2"))
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
    return warm_process.popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@pytest.mark.slow
def test_a_server_that_computes_another_model_is_refused_with_both_figures(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")  # whatever it is asked, a token has a log-probability of -1
    done = runner("tracking=none", *JOB[2:], *vllm_keys(standin))
    assert done.code == 2, done.err
    assert "reads" in done.err
    assert "transformers as" in done.err, "the stub's tokens are words"
    monkeypatch.setattr(comparison, "check_tokens", lambda *_: None)
    monkeypatch.setattr("runner.options.remote.vllm.engine._wrong", {})
    done = runner("tracking=none", *JOB[2:], *vllm_keys(standin))
    assert done.code == 2, done.err
    assert "computes another model than transformers" in done.err
    assert re.search(r"A token's mean is -1\.0000 by vLLM and -\d\.\d+ by transformers in float32", done.err)
    assert not any(map(is_alive, servers(standin)))


def test_a_plan_says_what_vllm_takes(runner: Run, tmp_path: Path) -> None:
    done = runner("-m", *JOB, *vllm_keys(VllmStandIn(tmp_path / "env")), "plan=true")
    assert done.code == 0, done.err
    assert "memory: 12 MiB of weights, and 4,096 MiB of main memory for keys and values" in done.out
    done = runner("-m", *JOB, *vllm_keys(VllmStandIn(tmp_path / "env2"), "model.memory_share=1"), "plan=true")
    assert "MiB of main memory are there: use a larger" in done.out
