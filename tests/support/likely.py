"""Texts to score, what plain forward passes say of them, and jobs that are compared with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from runner.config.root import RunnerConfig
from runner.core.result import Record
from runner.store.jobs import read_samples

WORDS = "The quick brown fox jumps over the lazy dog, and nobody has ever seen it come back. "
PAIRS = [{"prompt": WORDS[:cut], "continuation": WORDS[cut : cut + size]} for cut, size in ((20, 5), (31, 40), (9, 17))]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scores(folder: Path, ids: list[int], dtype: str = "float32") -> torch.Tensor:
    """The logarithms of a whole distribution after each token but the last, by one plain forward pass: [T-1, V]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(dim=-1)
    return found


def samples(record: Record) -> list[Any]:
    found = read_samples(Path(record.output_dir) / "samples.jsonl")
    return [found[index] for index in sorted(found)]


def named(config: RunnerConfig) -> str:
    """The overrides that make a job's model."""
    return f"model=auto model.name={config.model.name} model.device=cpu model.dtype=float32"
