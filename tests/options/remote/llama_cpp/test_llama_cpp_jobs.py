"""model=llama_cpp from its start to its end, with a stand-in for llama-server that serves or fails.

What only the real one can show is in test_llama_cpp.py.
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
from described_kinds import check_description
from llama_cpp_standin import LlamaCppStandIn, llama_cpp_keys
from real_llama_cpp import embedded_file
from vllm_standin import is_alive

from runner.config.root import RunnerConfig
from runner.options.remote.llama_cpp.keys import LlamaCppConfig
from runner.records.jobs import read_samples

Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "task.limit=6", "generation.max_new_tokens=48")
WAIT_S = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_file(tmp_path_factory.mktemp("model"))


@pytest.fixture
def standin(tmp_path: Path) -> LlamaCppStandIn:
    return LlamaCppStandIn(tmp_path / "bin")


def samples(folder: Path) -> list[tuple[int, str]]:
    return sorted((index, sample.answer.text) for path in folder.glob("outputs/jobs/*/samples.jsonl")
                  for index, sample in read_samples(path).items())  # fmt: skip


def pids(standin: LlamaCppStandIn) -> list[int]:
    return [int(str(server["pid"])) for server in standin.started]


def wait_until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the runner as a process that can be killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "runner", *arguments]
    return warm_process.popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def test_it_has_a_complete_description(
    make_config: Callable[..., RunnerConfig], tmp_path: Path, model: Path, standin: LlamaCppStandIn
) -> None:
    config = LlamaCppConfig(name=str(model), executable=str(standin.path))
    check_description(make_config(model=config), tmp_path, is_served=True)


@pytest.mark.thorough
def test_a_grid_starts_one_server_and_ends_it(
    runner: Run, tmp_path: Path, model: Path, standin: LlamaCppStandIn
) -> None:
    done = runner("-m", *JOB, *llama_cpp_keys(standin, model, "model.parallel=2"), "seed=0,1")
    assert done.code == 0, done.err
    assert len(standin.started) == 1, "both jobs have the same base"
    assert not any(map(is_alive, pids(standin))), "nothing is left running"
    argv = [str(word) for word in standin.started[0]["argv"]]  # type: ignore[attr-defined]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--ctx-size") + 1] == "2048", "1,024 positions for each of two"
    results = [json.loads(path.read_text())["result"] for path in tmp_path.glob("outputs/jobs/*/result.json")]
    assert len(results) == 2
    for result in results:
        assert result["facts"]["engine"] == "llama.cpp b9235 (abc1234) on the CPU"
        assert result["facts"]["flags"].startswith("--ctx-size 2048 --parallel 2 --threads ")
        assert result["facts"]["compared"] == "not compared: model.compare=false"
        assert result["notes"] == ["llama.cpp was not compared: model.compare=false"]
    assert len([*tmp_path.glob("outputs/jobs/*/llama_cpp.log")]) == 2
    written = "".join(path.read_text() for path in tmp_path.glob("outputs/jobs/*/*.*"))
    assert not re.search(r"Bearer|LLAMA_API_KEY", written), "the key is nowhere"


@pytest.mark.thorough
def test_a_jobs_id_holds_version_device_and_flags(runner: Run, tmp_path: Path, model: Path) -> None:
    ids: list[str] = []

    def job_id(*more: str, version: str = "9235 (abc1234)", devices: str = "") -> str:
        standin = LlamaCppStandIn(tmp_path / f"bin{len(ids)}", version=version)
        (standin.folder / "devices").write_text(devices)
        planned = runner("-m", *JOB, *llama_cpp_keys(standin, model, *more), "plan=quick")
        assert planned.code == 0, planned.err
        (found,) = set(re.findall(r"gsm8k-[0-9a-f]{12}", planned.out))
        ids.append(found)
        return str(found)

    first = job_id()
    assert job_id("model.start_timeout_s=9", "model.check_memory=false") == first, "inert"
    others = [
        job_id("model.kv_keys=q8_0"), job_id("model.kv_values=q8_0"), job_id("model.flash_attention=on"),
        job_id("model.parallel=2"), job_id("model.context=512"), job_id("model.batch=64"), job_id("model.ubatch=32"),
        job_id("model.threads=1"), job_id("model.n_cpu_moe=3"), job_id("model.gpu_layers=1"),
        job_id(f"model.draft={model}"), job_id("model.override_tensors=['ffn_.*=CPU']"),
        job_id("model.flags=[--no-warmup]"), job_id(version="9300 (abc1234)"), job_id(version="9235 (def5678)"),
        job_id(devices="  CUDA0: NVIDIA H200 (143771 MiB, 142000 MiB free)"),
    ]  # fmt: skip
    assert len({first, *others}) == 17


@pytest.mark.sampled(1)
@pytest.mark.parametrize("key", ["model.parallel=1", "model.prompt_cache=false"])
def test_answers_after_a_kill_do_not_depend_on_what_was_asked_before(
    runner: Run, tmp_path: Path, model: Path, key: str
) -> None:
    standin = LlamaCppStandIn(tmp_path / "bin", wish="cached")  # as llama.cpp's prompt cache
    keys = (*JOB, *llama_cpp_keys(standin, model, key))
    assert runner(*keys, cwd=tmp_path).code == 0
    whole = samples(tmp_path)
    standin.delay(0.3)
    again = tmp_path / "again"
    again.mkdir()
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *keys], cwd=again,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(samples(again)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    assert 2 <= len(samples(again)) < 6
    standin.delay(0)
    assert runner(*keys, cwd=again).code == 0
    assert samples(again) == whole


@pytest.mark.thorough
def test_the_prompt_cache_counts_where_it_changes_answers(runner: Run, tmp_path: Path, model: Path) -> None:
    standin = LlamaCppStandIn(tmp_path / "bin")

    def job_id(*more: str) -> str:
        planned = runner("-m", *JOB, *llama_cpp_keys(standin, model, *more), "plan=quick")
        assert planned.code == 0, planned.err
        (found,) = set(re.findall(r"gsm8k-[0-9a-f]{12}", planned.out))
        return str(found)

    ids = [
        job_id(), job_id("model.prompt_cache=false"), job_id("model.parallel=1"),
        job_id("model.parallel=1", "model.prompt_cache=true"),
    ]  # fmt: skip
    assert len({*ids}) == 4
    refused = runner(*JOB, *llama_cpp_keys(standin, model, "model.flags=[--no-cache-prompt]"))
    assert refused.code == 2
    assert (
        "model.flags=--no-cache-prompt: --no-cache-prompt is set by the config key model.prompt_cache"
        in refused.err
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("rope=rope_2d",), "rope=rope_2d: llama.cpp cannot change the weights of a .gguf file: use rope=native"),
        (("lora=embedded",), "llama.cpp has no PEFT adapters"),
        (("quantization=nf4",), "quantization=nf4: llama.cpp cannot change the weights of a .gguf file: use quantization=none"),
        (("generation.kv_cache=int8",), "but llama.cpp has its own KV cache settings, model.kv_keys"),
        (("generation.frequency_penalty=0.5",), "llama.cpp also penalizes the prompt's tokens"),
        (("generation.batch_size=9",), "generation.batch_size=9: the batch size exceeds model.parallel=4"),
        (("task=memory",), "needs memory on this machine"),
        (("task=likelihood", "task.keep_top_k=4"), "task.keep_top_k=4 needs log-probabilities of given tokens"),
        (("task=tools",), "needs functions in the chat template"),
        (("model.kv_keys=q3_0",), "model.kv_keys"),
        (("model.kv_values=q4_0", "model.flash_attention=off"), "llama.cpp rejects model.kv_values=q4_0"),
        (("model.draft_tokens=3",), "model.draft_tokens=3: this key has no effect without a draft model"),
        (("model.draft=./nowhere.gguf",), "model.draft=./nowhere.gguf: there is no file"),
        (("model.override_tensors=[CPU]",), "model.override_tensors=CPU: give PATTERN=DEVICE"),
        (("model.flags=[--ctx-size,99]",), "model.flags=--ctx-size: --ctx-size is set by the config key model.context"),
        (("model.flags=[-ngl,9]",), "model.flags=-ngl: -ngl is set by the config key model.gpu_layers"),
        (("model.flags=[--temp=1]",), "model.flags=--temp=1: --temp is set by the config key generation"),
        (("model.flags=[--lora,x.gguf]",), "model.flags=--lora: --lora would make the run record"),
        (("model.flags=[--api-key,x]",), "model.flags=--api-key: the runner sets --api-key itself"),
        (("model.flags=[--no-such-word]",), "llama.cpp b9235 (abc1234) on the CPU does not support this option. Supported options: --alias"),
        (("model.name=embedded",), "model.name=embedded: llama.cpp reads only .gguf files"),
        (("model.python=./x",), "model.python=./x: model.executable is also set"),
    ],
)  # fmt: skip
def test_what_llama_cpp_cannot_do_is_refused_before_anything_starts(
    runner: Run, model: Path, standin: LlamaCppStandIn, keys: tuple[str, ...], message: str
) -> None:
    job = () if any(key.startswith("task=") for key in keys) else JOB[2:]
    done = runner("tracking=none", *job, *llama_cpp_keys(standin, model), *keys)
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
    assert message in done.err
    assert not standin.started


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        ("broken", 1, "ended with exit code 1 while it started\n    | llama_model_load: error loading model: tensor 'blk.3"),
        ("no_memory", 1, "not enough memory. Use a smaller model.context"),
        ("bad_words", 2, "model.flags=[]: llama.cpp b9235 (abc1234) on the CPU rejects its command line\n    | error: inv"),
        ("port_taken", 2, "another program listens there"),
        ("wrong_model", 2, "has loaded /elsewhere/another.gguf instead of"),
        ("one_slot", 2, "model.parallel=4: llama.cpp b9235 (abc1234) on the CPU has created 1 slots"),
        ("no_room", 2, "model.context=1024: llama.cpp b9235 (abc1234) on the CPU has a KV cache for only 8 tokens"),
        ("ignores", 2, "ignores the request parameters top_k (sent 7, taken 40)"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_what_was_asked_for_is_one_message(
    runner: Run, model: Path, standin: LlamaCppStandIn, wish: str, code: int, message: str
) -> None:
    standin.wish(wish)
    done = runner("tracking=none", *JOB[2:], *llama_cpp_keys(standin, model))
    assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert message in done.err
    assert len(standin.started) == (3 if wish == "port_taken" else 1), "another port is tried"
    assert not any(map(is_alive, pids(standin)))


def test_a_slow_start_is_waited_for_unless_it_takes_too_long(
    runner: Run, tmp_path: Path, model: Path, standin: LlamaCppStandIn
) -> None:
    standin.wish("slow")
    late = runner("tracking=none", *JOB[2:], *llama_cpp_keys(standin, model, "model.start_timeout_s=0.8"))
    assert late.code == 1
    assert "was not ready within model.start_timeout_s=0.8\n    | load_tensors: part" in late.err
    done = runner("tracking=none", *JOB[2:], *llama_cpp_keys(standin, model))
    assert done.code == 0, done.err
    assert len(samples(tmp_path)) == 6


def test_a_program_that_is_none_is_named(
    runner: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `make llama_cpp` may have made an environment beside these files
    monkeypatch.setattr("runner.options.remote.llama_cpp.program.CHECKOUT", tmp_path)
    here = ("tracking=none", *JOB[2:], "model=llama_cpp", f"model.name={model}")
    for keys, message in (
        (
            ("model.executable=./nowhere",),
            "model.executable=./nowhere: llama-server does not exist at this path",
        ),
        (("model.executable=/bin/true",), "this program is not llama-server. Its --version prints true"),
        (("model.python=./nowhere",), "/nowhere does not exist. "),
        ((f"model.python={sys.executable}",), "has no xllamacpp"),
    ):
        found = runner(*here, *keys)
        assert found.code == 2
        assert message in found.err
    monkeypatch.setenv("PATH", "/nowhere")  # in this process, where the folder of `make llama_cpp` is patched
    nowhere = runner(*here)
    assert nowhere.code == 2
    assert "model=llama_cpp: llama.cpp was not found: install llama.cpp" in nowhere.err


@pytest.mark.thorough
def test_the_one_on_path_is_found(runner: Run, tmp_path: Path, model: Path, standin: LlamaCppStandIn) -> None:
    keys = [key for key in llama_cpp_keys(standin, model) if "executable" not in key]
    path = f"{standin.folder}{os.pathsep}{os.environ['PATH']}"
    done = runner("tracking=none", *JOB[2:], *keys, PATH=path)
    assert done.code == 0, done.err
    assert len(standin.started) == 1


@pytest.mark.thorough
def test_a_port_that_another_program_has_is_refused(
    runner: Run, model: Path, standin: LlamaCppStandIn
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        keys = llama_cpp_keys(standin, model, f"model.port={port}")
        done = runner("tracking=none", *JOB[2:], *keys)
    assert done.code == 2
    assert f"model.port={port}: port not available on 127.0.0.1: Address already in use" in done.err
    assert not standin.started


@pytest.mark.thorough
def test_variables_that_stand_for_words_do_not_reach_it(
    runner: Run, tmp_path: Path, model: Path, standin: LlamaCppStandIn
) -> None:
    (standin.folder / "wish").write_text("serve")
    # the stand-in writes what it got
    text = standin.path.read_text().replace("started.open", "started.open")
    standin.path.write_text(text.replace('"argv": words}', '"argv": words, "variables": [*os.environ]}'))
    done = runner("tracking=none", *JOB[2:], *llama_cpp_keys(standin, model), LLAMA_ARG_CTX_SIZE="64")
    assert done.code == 0, done.err
    variables: Any = standin.started[0]["variables"]
    assert "LLAMA_API_KEY" in variables
    assert "LLAMA_ARG_CTX_SIZE" not in variables


@pytest.mark.thorough
def test_a_plan_says_what_it_takes(runner: Run, model: Path, standin: LlamaCppStandIn) -> None:
    done = runner("-m", *JOB, *llama_cpp_keys(standin, model), "plan=true")
    assert done.code == 0, done.err
    assert "memory: 6 MiB of weights and 8 MiB of KV cache" in done.out
    keys = ("model.context=900000000", "model.parallel=9")
    done = runner("-m", *JOB, *llama_cpp_keys(standin, model, *keys), "plan=true")
    assert "MiB of main memory are available. Lower model.context" in done.out
    assert not standin.started


@pytest.mark.slow
def test_a_server_that_crashes_amid_a_grid_fails_one_job_and_loses_nothing(
    runner: Run, tmp_path: Path, model: Path, standin: LlamaCppStandIn
) -> None:
    standin.wish("crash")
    grid = ("-m", "tracking=none", "task.limit=12", *llama_cpp_keys(standin, model, "model.parallel=1"))  # fmt: skip
    crashed = runner(*grid, "seed=0,1")
    assert crashed.code == 1
    said = crashed.out + crashed.err
    assert "was killed by SIGABRT. Completed answers are saved" in said or "exit code 134" in said
    assert "ggml_abort: error: the wheels came off" in said
    kept = samples(tmp_path)
    assert len(kept) == 12, "six of each job"
    assert len(standin.started) == 2
    standin.wish("serve")
    again = runner(*grid, "seed=0,1")
    assert again.code == 0, again.err
    assert len(samples(tmp_path)) == 24
    assert set(kept) <= set(samples(tmp_path))


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_runner_that_dies_takes_its_server_along(
    tmp_path: Path, model: Path, standin: LlamaCppStandIn, number: int
) -> None:
    standin.delay(0.2)
    job = ("tracking=none", "task.limit=40", *llama_cpp_keys(standin, model, "model.parallel=2"))
    process = start(tmp_path, *job)
    wait_until(lambda: len(samples(tmp_path)) >= 2)
    assert all(map(is_alive, pids(standin))), "the control"
    os.kill(process.pid, number)
    process.communicate(timeout=WAIT_S)
    wait_until(lambda: not any(map(is_alive, pids(standin))))
    assert 2 <= len(samples(tmp_path)) < 40, "what was answered is kept"
