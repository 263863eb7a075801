"""Shared by the steps of first_gpu.py: the engine, requests, and lines of the table."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engines import greedy_engine, random_prompts

from runner_base import Dtype
from runner_engine.checkpoints import random_weights
from runner_engine.decode.passes import step_graphs
from runner_engine.embedded import MODEL_DIR
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization import CHOICES
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig

STEP, DEVICE, FIGURES = sys.argv[1:4]
ON_GPU = DEVICE.startswith("cuda")
SHAPE = "qwen2_05b_instruct"
ROWS = (1, 32, 128, 512) if ON_GPU else (1, 8)
PROMPT, NEW = (64, 128) if ON_GPU else (12, 24)
# tokens a second, and launches a step, that were expected of this design before it ran on a GPU (an
# H100)
EXPECTED_TOK_PER_S = {1: 190, 32: 5500, 128: 17_000, 512: 38_000}
EXPECTED_KERNELS = 1850
ALWAYS, NEVER = step_graphs.RECORD_AT, 10**9
lines: list[tuple[str, str, bool]] = []


def note(expected: str, measured: str, passed: bool) -> None:
    """Keep one line of the table."""
    lines.append((expected, measured, passed))
    print(expected, "|", measured, "|", passed, flush=True)
    Path(FIGURES).write_text(json.dumps(lines))


def engine_of(
    dtype: Dtype = Dtype.bfloat16, quantization: str = "none", is_large: bool = ON_GPU
) -> LocalEngine:
    """Return a loaded engine: of the large shape with random weights, or the embedded model."""
    if is_large:
        folder = random_weights.ensure_random_checkpoint(
            LocalModelConfig(name=SHAPE, shape=SHAPE, random_weights=True)
        )
    else:
        folder = MODEL_DIR
    model = LocalModelConfig(name=str(folder), device=DEVICE, dtype=dtype)
    engine = greedy_engine(model, CHOICES[quantization](), max_new_tokens=NEW)
    engine.load()
    return engine


def asked(engine: LocalEngine, rows: int, new: int = NEW, prompt: int = PROMPT, **keys: Any) -> list[Request]:
    """Return requests with prompts of random tokens that run to their limits."""
    prompts = random_prompts(engine, rows, prompt, random.Random(rows))
    return [Request(at, one, max_new_tokens=new, ignore_eos=True, **keys) for at, one in enumerate(prompts)]


def tokens_of(done: Sequence[Completion]) -> dict[Any, list[int]]:
    """Return each answer's tokens; an error ends the step."""
    if failed := [one.error for one in done if one.error]:
        raise SystemExit(f"{len(failed)} failed: {failed[0]}")
    return {one.id: one.answer.token_ids for one in done}


def decode_rate(engine: LocalEngine, requests: list[Request]) -> float:
    """Return the decoded tokens a second."""
    before = replace(engine.stats)
    tokens_of(complete_requests(engine, requests, len(requests)))
    return (engine.stats - before).decode_tok_per_s


def same_start(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many tokens are equal before the first that differs."""
    return next(
        (at for at, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two),
        min(len(ours), len(theirs)),
    )


def generated(engine: LocalEngine, requests: list[Request]) -> dict[Any, list[int]]:
    """Return transformers' own answers to prompts of equal length."""
    ids = torch.tensor([list(one.prompt) for one in requests], device=DEVICE)
    limit = requests[0].max_new_tokens
    model = engine.loaded.model
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            pad_token_id=0,
        )
    return {one.id: row for one, row in zip(requests, out[:, ids.shape[1] :].tolist(), strict=True)}
