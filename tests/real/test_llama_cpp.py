"""SmolLM2's .gguf file by llama.cpp and by our own engine: the same prompts, first choices and
answers in pairs. `make real-model` and `make llama_cpp` fetch both; else these tests are skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_llama_cpp import needs_llama_cpp, real_keys

from runner.records.jobs import read_samples
from tools import real_model

pytestmark = [
    pytest.mark.slow,
    needs_llama_cpp,
    pytest.mark.skipif(not real_model.is_there(), reason=f"the real model is not here: {real_model.HOW}"),
]
Run = Callable[..., Any]
QUESTIONS, MOST_OTHER = 8, 8  # first choices of 128 that rounding may make others
JOB = (
    "tracking=none", "print=none", "task=gsm8k", "task.data=embedded", f"task.limit={QUESTIONS}",
    "generation.max_new_tokens=32",
)  # fmt: skip


def test_word_problems_are_answered_in_pairs(runner: Run, tmp_path: Path) -> None:
    file = real_model.gguf_file()
    here = ("model=local", f"model.name={file}", "quantization=gguf", "quantization.int8_activations=true", "model.device=cpu", "model.threads=1")  # fmt: skip
    for keys in (real_keys(file, "model.context=1024"), here):
        done = runner(*JOB, *keys)
        assert done.code == 0, done.err
    found = {}
    for path in (tmp_path / "outputs" / "jobs").glob("gsm8k-*/result.json"):
        facts = json.loads(path.read_text())["result"]["facts"]
        found["engine" in facts] = facts, read_samples(path.parent / "samples.jsonl")
    (facts, there), (_, own) = found[True], found[False]
    choices = re.search(r"the same at (\d+) of 128 positions", facts["compared"])
    assert choices is not None, facts
    assert int(choices[1]) >= 128 - MOST_OTHER
    assert "tokenize 289 test texts identically, and 4 chats are rendered identically" in facts["compared"]
    assert len(own) == len(there) == QUESTIONS
    for index, sample in own.items():
        assert there[index].prompt_sha256 == sample.prompt_sha256
        assert there[index].prompt_tokens == sample.prompt_tokens
    # where two first choices are equally likely, rounding decides, and the answers part
    alike = sum(own[index].answer.text[:9] == there[index].answer.text[:9] for index in own)
    assert alike >= QUESTIONS // 2
    baseline = ("--output-dir", "outputs", "--baseline", "model.engine.name=runner,quantization.name=gguf")
    values = json.loads(runner(*baseline, "--format", "json", module="runner_compare").out)
    [other] = [row["comparison"] for row in values["tables"][0]["rows"] if row["comparison"]]
    assert other["finding"] == "no difference shown", other
    compared = runner(*baseline, module="runner_compare")
    assert compared.code == 0, compared.err
    assert "not compared" not in compared.out
    head = next(line for line in compared.out.splitlines() if "engine" in line)
    assert len(re.findall(r"model\.\w+", head)) <= 2, head
