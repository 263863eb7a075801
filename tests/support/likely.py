"""Texts to score, their scores by plain forward passes, and the samples of jobs that are
compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from runner.config.root import RunnerConfig
from runner.records.jobs import read_samples
from runner_base.result import Record

WORDS = "The quick brown fox jumps over the lazy dog, and nobody has ever seen it come back. "
PAIRS = [
    {"prompt": WORDS[:cut], "continuation": WORDS[cut : cut + size]}
    for cut, size in ((20, 5), (31, 40), (9, 17))
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scores(folder: Path, ids: list[int], dtype: str = "float32") -> torch.Tensor:
    """Return the log-probabilities of all tokens after each token but the last, from one forward
    pass: [T-1, V]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        log_probabilities: torch.Tensor = (
            model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(dim=-1)
        )
    return log_probabilities


def samples(record: Record) -> list[Any]:
    by_index = read_samples(Path(record.output_dir) / "samples.jsonl")
    return [by_index[index] for index in sorted(by_index)]


def model_overrides(config: RunnerConfig) -> str:
    """Return the overrides that select a config's model."""
    return f"model=auto model.name={config.model.name} model.device=cpu model.dtype=float32"
