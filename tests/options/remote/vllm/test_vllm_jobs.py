"""model=vllm from its start to its end, with a stand-in for vLLM: our own server, or a program that
fails as vLLM does.

What only the real one can show is in tests/options/remote/vllm/test_vllm.py.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm_standin import VllmStandIn, vllm_keys

Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "task.limit=6", "generation.max_new_tokens=48")
WAIT_S = 120


@pytest.mark.thorough
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
    others = [job_id("model.kv_cache_dtype=fp8"), job_id("model.kv_cache_dtype=fp8_e5m2"), job_id(version="0.33.0"), job_id("model.args=[--enforce-eager]"), job_id("model.tensor_parallel=2"),
              job_id("quantization=fp8"), job_id("model.max_positions=512")]  # fmt: skip
    own = re.search(r"gsm8k-[0-9a-f]{12}", runner("-m", *JOB, "model.dtype=float32", "plan=quick").out)
    assert own is not None
    assert len({first, *others, own[0]}) == 9


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("rope=rope_2d",), "rope=rope_2d: vLLM does not support two-dimensional RoPE"),
        (("lora=embedded_pth",), "lora=pth: vLLM cannot read .pth adapters"),
        (("lora=embedded", "lora.merge=true"), "lora.merge=True: vLLM does not merge adapters"),
        (("quantization=nf4", "quantization.skip=[layers.0]"), "vLLM cannot mix formats by layer"),
        (("quantization=nf4",), "quantization=nf4: vLLM does not support this format. Use none or fp8"),
        (
            ("quantization=fp8", "model.quantization=mxfp8"),
            "model.quantization=mxfp8: quantization=fp8 already sets the format",
        ),
        (
            ("model.quantization=nf4",),
            "model.quantization=nf4: vLLM 0.32.0 on the CPU supports awq, fp8, mxfp8",
        ),
        (("generation.kv_cache=int8",), "but vLLM has its own KV cache setting, model.kv_cache_dtype"),
        (("generation.thinking_tokens=9",), "Give model.reasoning_parser="),
        (("task=memory",), "needs memory on this machine"),
        (
            ("task=likelihood", "task.keep_top_k=4"),
            "task.keep_top_k=4 needs log-probabilities of given tokens",
        ),
        (
            ("model.args=[--dtype=float16]",),
            "model.args=--dtype=float16: --dtype is set by the config key model.dtype",
        ),
        (
            ("model.args=[--kv-cache-dtype,fp8]",),
            "model.args=--kv-cache-dtype: --kv-cache-dtype is set by the config key model.kv_cache_dtype",
        ),
        (
            ("model.args=[--quant,fp8]",),
            "model.args=--quant: --quantization is set by the config key quantization",
        ),
        (
            ("model.args=[-tp,2]",),
            "model.args=-tp: --tensor-parallel-size is set by the config key model.tensor_parallel",
        ),
        (
            ("model.args=[--no_enable_lora]",),
            "model.args=--no_enable_lora: --enable-lora is set by the config key lora",
        ),
        (("model.args=['--hf-overrides.rope_theta',1]",), "--hf-overrides would make the run record"),
        (("model.args=[--load-format,dummy]",), "--load-format would make the run record"),
        (("model.args=[--api-key,x]",), "model.args=--api-key: the runner sets --api-key itself"),
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


@pytest.mark.thorough
def test_branches_are_refused(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env")
    branches = ("task=generate", "task.prompt=x", "task.branches=[a,b]")
    done = runner("tracking=none", *vllm_keys(standin), *branches)
    assert done.code == 2
    assert "branches" in done.err
    assert not standin.started


def test_words_that_only_look_like_others_pass(runner: Run, tmp_path: Path) -> None:
    words = "model.args=[--max-num-seqs,64,--enforce-eager,--data-parallel-size-local,2,--distributed-executor-backend,ray]"
    done = runner(*vllm_keys(VllmStandIn(tmp_path / "env"), words), "--cfg", "job")
    assert done.code == 0, done.err


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        (
            "broken",
            1,
            "ended with exit code 1 while it started\n    | ValueError: the wheels came off\n    log: ",
        ),
        ("no_memory", 1, "not enough memory. Lower model.max_positions"),
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
    assert "has vLLM 0.9.2, but model=vllm needs 0.14 or newer" in found.err
    found = runner(*here, *vllm_keys(none))
    assert found.code == 2
    assert f"vLLM is missing in model.python={tmp_path}/none/bin/python" in found.err
    found = runner(*here, "model=vllm", "model.name=embedded", "model.python=./nowhere")
    assert found.code == 2
    assert "/nowhere does not exist. " in found.err
    assert "make vllm" in found.err


def test_a_port_that_another_program_has_is_refused(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env", "stub")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = runner(
            "tracking=none", *JOB[2:], *vllm_keys(standin, "model.compare=false", f"model.port={port}")
        )
    assert done.code == 2
    assert f"model.port={port}: port not available on 127.0.0.1: Address already in use" in done.err
    assert not standin.started


def test_a_plan_says_what_vllm_takes(runner: Run, tmp_path: Path) -> None:
    done = runner("-m", *JOB, *vllm_keys(VllmStandIn(tmp_path / "env")), "plan=true")
    assert done.code == 0, done.err
    assert "memory: vLLM needs 12 MiB for weights and 4,096 MiB for the KV cache" in done.out
    done = runner("-m", *JOB, *vllm_keys(VllmStandIn(tmp_path / "env2"), "model.memory_share=1"), "plan=true")
    assert "MiB of main memory are available. Use a larger" in done.out
