"""Every command on the benchmarks' pages starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner_engine.embedded import MODEL_DIR

ROOT = Path(__file__).parents[2]
PAGES = ("bench/README.md", "bench/compare/README.md", "bench/engine/README.md")
COMMANDS = sorted(
    {
        script
        for page in PAGES
        for script in re.findall(r"python (bench/[\w/]+\.py)", (ROOT / page).read_text())
    }
    - {"bench/latest.py"}  # renews the tables of a page, and measures nothing
)
MODEL = str(MODEL_DIR)
# What a command cannot do without; every other one starts with its usual sizes.
ARGUMENTS = {
    "bench/corpus_ranks.py": ["--model", MODEL],
    "bench/drawn_kl.py": ["--model", MODEL, "--texts", "1"],
    "bench/llama_cpp_resumed.py": ["--model", MODEL],
    "bench/llama_cpp_turns.py": ["--model", MODEL],
    "bench/lm_eval_own_tests.py": ["missing_checkout"],
    "bench/plan_accuracy.py": ["--model", MODEL, "--data", MODEL],
    "bench/vllm_kl.py": ["--model", MODEL, "--texts", "1"],
    "bench/short_lora.py": [MODEL, "{folder}/adapter", "--steps", "1"],
}
FIRST_LINE_S, WATCHED_S = 90, 10
MISTAKES = ("ImportError", "ModuleNotFoundError", "No module named", "AttributeError", "NameError")


def test_the_pages_name_commands() -> None:
    assert len(COMMANDS) > 80
    assert ARGUMENTS.keys() - set(COMMANDS) == set()


@pytest.mark.thorough
@pytest.mark.parametrize("script", COMMANDS)
def test_a_command_prints_its_first_line_and_goes_on(tmp_path: Path, script: str) -> None:
    """It ends within the time watched, or is still measuring then. No package is installed."""
    arguments = [word.format(folder=tmp_path) for word in ARGUMENTS.get(script, [])]
    output = tmp_path / "output.txt"
    environment = os.environ | {"PIP_NO_INDEX": "1", "PYTHONUNBUFFERED": "1"}
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + FIRST_LINE_S
        while script not in output.read_text() and process.poll() is None:
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        assert script in output.read_text()
        try:
            process.wait(WATCHED_S)
        except subprocess.TimeoutExpired:
            return
        printed = output.read_text()
        assert not [word for word in MISTAKES if word in printed], printed[-2000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
