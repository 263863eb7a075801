"""The same answers with model=api as with our own engine: from our server, and from a real vLLM
after `make vllm`.

And vLLM's own parser takes every command that docs/remote.md and task.explain=vllm print; Ray's takes
those of Ray.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from real_vllm import PAGE, VLLM, commands, needs_vllm, parsed_by_vllm
from servers import free_port

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.options.remote.vllm.command import build_server_options
from runner.options.remote.vllm.keys import VllmConfig
from runner.records.jobs import read_samples
from runner_base.model_text import Ending
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.lora import PeftConfig

ROOT = Path(__file__).resolve().parents[4]
START_S = 900  # on a busy machine; a minute on a quiet one
ROOM = 512
Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "generation.max_new_tokens=200")
# the console script of the CPU build needs metadata that is missing, so its server is started as a
# module
SERVER = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server"]
PARSE_RAY = """
import sys
from ray.scripts.scripts import start
options = start.make_context("start", sys.argv[1:]).params
print(options["head"], options["port"], options["address"])
"""


@contextmanager
def vllm_serving(model: Path, folder: Path, *options: str) -> Iterator[str]:
    """Serve a model with vLLM; yield the address."""
    port, log = free_port(), folder / "log"
    command = [
        *SERVER,
        "--model",
        str(model),
        "--served-model-name",
        "embedded",
        "--dtype",
        "float32",
        *options,
    ]
    command += ["--max-model-len", str(ROOM), "--port", str(port), "--host", "127.0.0.1"]
    with log.open("wb") as out:
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the embedded model with vLLM; return the address."""
    with vllm_serving(MODEL_DIR, tmp_path_factory.mktemp("vllm")) as address:
        yield address


def texts(folder: Path) -> dict[int, tuple[str, str | None]]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return {
        index: (sample.answer.text, sample.answer.verdict) for index, sample in read_samples(path).items()
    }


def answers_here(runner: Run, folder: Path, questions: int) -> dict[int, tuple[str, str | None]]:
    """Return the answers of our own engine."""
    folder.mkdir()
    done = runner(*JOB, f"task.limit={questions}", "model.dtype=float32", "model.device=cpu", cwd=folder)
    assert done.code == 0, done.err
    answers = texts(folder)
    assert len(answers) == questions
    return answers


@needs_vllm
@pytest.mark.thorough
def test_a_real_vllm_gives_the_same_verdicts(runner: Run, tmp_path: Path, vllm: str) -> None:
    remote = ("model=api", f"model.base_url={vllm}", "model.name=embedded", "model.extensions=vllm")
    there = runner(*JOB, "task.limit=200", *remote)
    assert there.code == 0, there.err
    assert texts(tmp_path) == answers_here(runner, tmp_path / "here", 200)


def thinking_model(folder: Path) -> Any:
    """Write the embedded model with tags that are tokens, as vLLM needs, and a template that begins
    the thinking.

    Returns its tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype="float32")
    tokenizer.add_tokens(["<think>", "</think>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


@needs_vllm
@pytest.mark.thorough
def test_a_real_vllm_keeps_to_a_budget(runner: Run, tmp_path: Path) -> None:
    tokenizer, tokens = thinking_model(tmp_path / "model"), 8
    answers = []
    with vllm_serving(
        tmp_path / "model", tmp_path, "--reasoning-parser", "qwen3", "--enforce-eager"
    ) as address:
        remote = (*JOB, "task.limit=20", "model=api", f"model.base_url={address}", "model.name=embedded")
        for name, budget in (("free", "null"), ("held", tokens)):
            (tmp_path / name).mkdir()
            keys = (f"generation.thinking_tokens={budget}", "model.thinking_budget_dialect=vllm")
            done = runner(*remote, *keys, cwd=tmp_path / name)
            assert done.code == 0, done.err
            (path,) = (tmp_path / name).glob("outputs/jobs/*/samples.jsonl")
            assert "ignored the thinking budget" not in path.with_name("result.json").read_text()
            answers.append([sample.answer for _, sample in sorted(read_samples(path).items())])
    for free, held in zip(*answers, strict=True):
        assert free.thinking is not None
        assert held.thinking is not None
        assert free.text == "", "it never closes its thinking by itself"
        assert held.thinking.strip()
        assert len(tokenizer.encode(held.thinking)) == held.thinking_tokens
        assert free.thinking.strip().startswith(held.thinking.strip())
        assert held.text.strip()
        assert held.thinking_tokens == tokens - 1, "the line break of the template counts for vLLM's budget"
        assert held.ending is Ending.budget_spent
        assert held.tokens > tokens


def with_vllm(runner: Run, folder: Path, *keys: str) -> Any:
    """Run a job with model=vllm on the embedded model in float32; it must end well."""
    folder.mkdir(exist_ok=True)
    own = (
        "model=vllm",
        "model.name=embedded",
        "model.dtype=float32",
        f"model.python={VLLM}",
        "model.args=[--enforce-eager]",
    )
    done = runner("tracking=none", "print=json", *own, *keys, cwd=folder, VLLM_CPU_KVCACHE_SPACE="1")
    assert done.code == 0, done.err
    path = max(folder.glob("outputs/jobs/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(path.read_text())["result"]


@needs_vllm
@pytest.mark.thorough
def test_model_vllm_gives_the_answers_of_our_engine_with_an_adapter_too(runner: Run, tmp_path: Path) -> None:
    for lora in ("none", "embedded"):
        keys = (f"lora={lora}", "task.split=hard5", "task.limit=20")
        there, here = tmp_path / f"there_{lora}", tmp_path / f"here_{lora}"
        facts = with_vllm(runner, there, *keys)["facts"]
        is_compared = "with transformers" if lora == "none" else "not compared: vLLM's CPU build cannot score"
        assert facts["compared"].startswith(is_compared)
        here.mkdir()
        done = runner(
            "tracking=none", "print=json", "model.dtype=float32", "model.device=cpu", *keys, cwd=here
        )
        assert done.code == 0, done.err
        ours, theirs = (samples_of(folder) for folder in (here, there))
        assert [one.answer.text for one in theirs] == [one.answer.text for one in ours]
        assert [one.prompt_sha256 for one in theirs] == [one.prompt_sha256 for one in ours]


@needs_vllm
@pytest.mark.thorough
@pytest.mark.parametrize("prompt", ["chat", "text"])
def test_model_vllm_scores_as_our_engine_does(runner: Run, tmp_path: Path, prompt: str) -> None:
    keys = ("task=likelihood", "task.limit=12", f"task.prompt={prompt}")
    with_vllm(runner, tmp_path / "there", *keys)
    (tmp_path / "here").mkdir()
    done = runner(
        "tracking=none", "print=json", "model.dtype=float32", "model.device=cpu", *keys, cwd=tmp_path / "here"
    )
    assert done.code == 0, done.err
    ours, theirs = (samples_of(tmp_path / name) for name in ("here", "there"))
    assert len(ours) == len(theirs) == 12
    for own, other in zip(ours, theirs, strict=True):
        assert own.likelihood is not None
        assert other.likelihood is not None
        assert own.likelihood.tokens == other.likelihood.tokens
        assert other.likelihood.nats == pytest.approx(own.likelihood.nats, abs=1e-3)


@needs_vllm
@pytest.mark.thorough
def test_model_vllm_is_as_far_from_a_reference_as_whole_distributions_say(
    runner: Run, tmp_path: Path
) -> None:
    task = ("task=likelihood", "task.data=embedded", "task.limit=80")
    of_reference = "model=auto model.name=embedded model.dtype=float32 quantization=int8"
    named = f"task.reference='{of_reference}'"
    here = ("tracking=none", "print=json", "model.device=cpu")
    found = []
    for keys in (
        (*of_reference.split(), "task.keep_top_k=64"),
        ("model=auto", "model.name=embedded", "model.dtype=float32", named, "task.exact=true"),
    ):
        done = runner(*here, *keys, *task)
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["metrics"])
    told = with_vllm(runner, tmp_path, *task, named)["metrics"]
    whole, error = found[1]["kl_nats_per_token"], told["kl_drawing_error_nats_per_token"]
    assert 0 < error < whole
    assert abs(told["kl_nats_per_token"] - whole) <= 1.5 * error + 1e-6
    assert told["top_1_agreement"] == pytest.approx(found[1]["top_1_agreement"], abs=0.002)


@needs_vllm
@pytest.mark.thorough
def test_a_vllm_that_computes_something_else_is_refused(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # which would refuse the words that make it wrong
    monkeypatch.setattr(VllmConfig, "_check_server_argument", lambda *_: None)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    wrong = '--hf-overrides={"rope_parameters":{"rope_type":"default","rope_theta":2000.0}}'
    own = (
        "model=vllm",
        "model.name=embedded",
        f"model.python={VLLM}",
        f"model.args=[--enforce-eager,'{wrong}']",
    )
    for dtype in ("float32", "bfloat16"):
        done = runner("tracking=none", "task.limit=2", *own, f"model.dtype={dtype}")
        assert done.code == 2, done.err
        assert "computes other values than transformers" in done.err
        assert re.search(
            r"The mean per token is -\d+\.\d{4} with vLLM and -\d+\.\d{4} with transformers", done.err
        )


def samples_of(folder: Path) -> list[Any]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return [sample for _, sample in sorted(read_samples(path).items())]


@needs_vllm
@pytest.mark.thorough
def test_vllm_parses_what_model_vllm_starts_it_with(make_config: Callable[..., RunnerConfig]) -> None:
    def started_with(**keys: Any) -> list[str]:
        model = VllmConfig(name="embedded", python=str(VLLM), **keys)
        return [
            "--model",
            "NAME",
            *build_server_options(resolve_job(make_config(model=model, lora=PeftConfig(path="embedded")))),
        ]

    page = [dict(word.split("=", 1) for word in words if word.startswith("model."))
            for words in commands(PAGE.read_text().replace("'", ""), "runner") if "model=vllm" in words]  # fmt: skip
    of_page = [
        started_with(
            tensor_parallel=int(keys["model.tensor_parallel"]),
            pipeline_parallel=int(keys.get("model.pipeline_parallel", 1)),
            args=[word for word in keys.get("model.args", "").strip("[]").split(",") if word],
        )
        for keys in page
    ]
    assert len(of_page) == 3
    every = started_with(
        tensor_parallel=2, pipeline_parallel=3, data_parallel=4, memory_share=0.5, max_positions=512, quantization="fp8",
        kv_cache_dtype="fp8_e5m2", reasoning_parser="qwen3", trust_remote_code=True, chat_template_kwargs={"enable_thinking": False},
        args=["--max-num-seqs", "64", "--enforce-eager", "--data-parallel-size-local", "2"],
    )  # fmt: skip
    done = parsed_by_vllm([*of_page, every])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split() for line in done.stdout.splitlines()[-4:]] == [
        ["2", "1", "0", "False"],
        ["8", "2", "0", "False"],
        ["8", "2", "0", "False"],
        ["2", "3", "0", "False"],
    ]


@pytest.mark.thorough
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'runner-llm[ray]'")
def test_ray_parses_its_commands() -> None:
    of_page = commands(PAGE.read_text(), "ray")
    assert [words[0] for words in of_page] == ["start", "start"]

    def parsed(*words: str) -> subprocess.CompletedProcess[str]:
        # ray sets variables of the process that imports it
        command = [sys.executable, "-c", PARSE_RAY, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert [parsed(*words[1:]).stdout for words in of_page] == [
        "True 6379 None\n",
        "False None 10.0.0.1:6379\n",
    ]
    assert "--prot" in parsed("--head", "--prot=6379").stderr, "the control"


@pytest.mark.thorough
def test_the_runners_commands_of_the_page_compose(runner: Run, tmp_path: Path) -> None:
    of_page = [words for words in commands(PAGE.read_text(), "runner") if "10.0.0.1:8000" in " ".join(words)]
    assert len(of_page) == 2
    for words in of_page:
        composed = runner(*words, "--cfg", "job", cwd=tmp_path)
        assert composed.code == 0, composed.err
        assert "base_url: http://10.0.0.1:8000/v1" in composed.out
