"""Jobs that are killed and resumed have the answers of an undisturbed one: short runs of the
benchmarks, with the embedded model and with the real llama.cpp and vLLM where they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from real_llama_cpp import embedded_file
from real_vllm import needs_vllm

ROOT = Path(__file__).parents[2]
LONGEST_S = 1800
# each of 21 starts takes a minute of a quiet machine, and three of a busy one
LONGEST_VLLM_S = 3 * 3600
needs_llama_cpp = pytest.mark.skipif(
    not (ROOT / ".llama_cpp").exists(), reason="llama.cpp is not installed here: make llama_cpp"
)
pytestmark = [pytest.mark.thorough, pytest.mark.slow]


def run(script: str, *arguments: str, longest_s: float = LONGEST_S) -> str:
    ran = subprocess.run(
        [sys.executable, f"bench/{script}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=longest_s,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr[-5000:]
    return ran.stdout


def test_killed_jobs_lose_nothing() -> None:
    assert "nothing that was shown as done was asked again" in run("kills.py", "--kills", "10")


@needs_llama_cpp
def test_killed_jobs_of_llama_cpp_lose_nothing(tmp_path: Path) -> None:
    file = str(embedded_file(tmp_path))
    printed = run("kills.py", "--kills", "6", "--llama-cpp", file, "--only", "llama.cpp")
    assert "nothing that was shown as done was asked again" in printed


@needs_vllm
def test_killed_jobs_of_vllm_lose_nothing() -> None:
    words = ("--kills", "20", "--vllm", "embedded", "--only", "vllm")
    printed = run("kills.py", *words, longest_s=LONGEST_VLLM_S)
    assert "20 kills: nothing that was shown as done was asked again" in printed


@needs_llama_cpp
def test_resumed_jobs_of_llama_cpp_have_the_same_answers(tmp_path: Path) -> None:
    sizes = ("--questions", "8", "--interrupts", "3", "--timed", "0")
    printed = run("llama_cpp_resumed.py", "--model", str(embedded_file(tmp_path)), *sizes)
    assert "model.prompt_cache=false: 8 of 8 answers equal after 1 interrupts" in printed
