"""The same answers with model=api as with our own engine: from our server, and from a real vLLM after `make vllm`.

And vLLM's command line has every option that docs/vllm.md and task.explain=vllm print.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from serving import serving

from runner.embedded import MODEL_DIR
from runner.store.jobs import read_samples

ROOT = Path(__file__).resolve().parents[3]
VLLM = ROOT / ".vllm" / "bin" / "python"
START_S = 300
ROOM = 512
Run = Callable[..., Any]
JOB = ("tracking=none", "print=json", "generation.max_new_tokens=200")
# the console script of the CPU build needs metadata that is missing, so its server is started as a module
SERVER = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server"]
OPTIONS = """
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(" ".join(name for action in make_arg_parser(FlexibleArgumentParser())._actions for name in action.option_strings))
"""

needs_vllm = pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed here: make vllm")


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the embedded model with vLLM; return the address."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [*SERVER, "--model", str(MODEL_DIR), "--served-model-name", "embedded", "--dtype", "float32"]
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


def texts(folder: Path) -> dict[int, tuple[str, str | None]]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return {index: (sample.text, sample.verdict) for index, sample in read_samples(path).items()}


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


@pytest.mark.slow
def test_our_own_server_gives_the_same_verdicts(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", "model.dtype=float32") as server:
        address = f"model.base_url=http://127.0.0.1:{server.port}/v1"
        there = runner(*JOB, "task.limit=48", "model=api", address, "model.name=embedded")
    assert there.code == 0, there.err
    assert texts(tmp_path) == answers_here(runner, tmp_path / "here", 48)


@needs_vllm
@pytest.mark.thorough
def test_every_option_that_is_printed_is_one_of_vllm(runner: Run, tmp_path: Path) -> None:
    known = subprocess.run([str(VLLM), "-c", OPTIONS], capture_output=True, text=True, check=True).stdout.split()
    printed = runner("task=split", "task.num_parts=2", "task.explain=vllm", "tracking=none", cwd=tmp_path).out
    page = (ROOT / "docs" / "vllm.md").read_text()
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", printed + page))
    assert "--pipeline-parallel-size" in options
    assert not options - set(known)
