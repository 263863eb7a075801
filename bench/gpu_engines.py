"""Shared by the steps of gpu_all.py: engines, requests, and what a step writes."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from engines import greedy_engine, random_prompts
from gpu_results import Check, Place, StepOutput
from latest import Figure

from runner_base import Dtype, machine
from runner_engine.checkpoints import random_weights
from runner_engine.decode.passes import step_graphs
from runner_engine.decode.passes.async_step import SWITCH
from runner_engine.embedded import MODEL_DIR
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization import CHOICES
from runner_engine.sessions.base import Completion, Request
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

STEP, DEVICE, OUTPUT_FILE, VLLM_PYTHON = sys.argv[1:5]
ON_GPU = DEVICE.startswith("cuda")
SHAPE = "qwen2_05b_instruct"
ROWS = (1, 32, 128, 512) if ON_GPU else (1, 4)
PROMPT, NEW = (64, 128) if ON_GPU else (12, 16)
ALWAYS, NEVER = step_graphs.RECORD_AT, 10**9
PAGES_NEED = ("block_table", "num_splits")  # arguments of flash attention since torch 2.13
output = StepOutput()


class NotRunError(Exception):
    """Something that a step needs is missing on this machine."""


def require(*packages: str) -> None:
    """Raise NotRunError if a package is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise NotRunError(f"{', '.join(missing)}: not installed here. --wheels adds packages.")


def write_place() -> None:
    """Write the hardware and torch's version of this step."""
    card = torch.cuda.get_device_name() if ON_GPU else machine.describe_machine()["cpu"]
    driver = _read_driver_version() if ON_GPU else "-"
    output.place = Place(card, driver, torch.__version__)
    output.write(Path(OUTPUT_FILE))


def _read_driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def note(what: str, measured: str, passed: bool | None = None) -> None:
    """Write a check at once, so that a step that is killed later keeps it."""
    output.checks.append(Check(what, measured, passed))
    print(what, "|", measured, "|", passed, flush=True)
    output.write(Path(OUTPUT_FILE))


def note_figure(what: str, unit: str, values: Sequence[float], side: str = "", digits: int = 0) -> None:
    """Write a figure at once."""
    output.figures.append(Figure.of(what, unit, values, side, digits))
    print(what, "|", output.figures[-1].words, unit, flush=True)
    output.write(Path(OUTPUT_FILE))


def write_missing(reason: str) -> None:
    output.missing = reason
    output.write(Path(OUTPUT_FILE))


def flash_attention_lacks() -> list[str]:
    """Return the arguments that pages need and this torch's flash attention does not have."""
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    return [name for name in PAGES_NEED if name not in schema]


def model_config(dtype: Dtype = Dtype.bfloat16, is_large: bool = ON_GPU) -> LocalModelConfig:
    """Return the large shape with random weights, or the embedded model."""
    if not is_large:
        return LocalModelConfig(name=str(MODEL_DIR), device=DEVICE, dtype=dtype)
    shape = LocalModelConfig(name=SHAPE, shape=SHAPE, random_weights=True)
    folder = random_weights.ensure_random_checkpoint(shape)
    return LocalModelConfig(name=str(folder), device=DEVICE, dtype=dtype)


def load_engine(
    model: LocalModelConfig, quantization: str = "none", kv_cache: KvCache = KvCache.as_model
) -> LocalEngine:
    engine = greedy_engine(model, CHOICES[quantization](), NEW, kv_cache)
    engine.load()
    return engine


@contextmanager
def steps_on_device(records: bool, is_ahead: bool = True) -> Iterator[None]:
    """Turn recorded steps and steps that begin ahead on or off."""
    step_graphs.RECORD_AT, os.environ[SWITCH] = (ALWAYS if records else NEVER), str(int(is_ahead))
    try:
        yield
    finally:
        step_graphs.RECORD_AT = ALWAYS
        del os.environ[SWITCH]


def make_requests(
    engine: LocalEngine, rows: int, new: int = NEW, prompt: int = PROMPT, seed: int = 0, **keys: Any
) -> list[Request]:
    """Return requests with prompts of random tokens that run to their limits."""
    prompts = random_prompts(engine, rows, prompt, random.Random(1000 * seed + rows))
    return [Request(at, one, max_new_tokens=new, ignore_eos=True, **keys) for at, one in enumerate(prompts)]


def read_tokens(done: Sequence[Completion]) -> dict[Any, list[int]]:
    """Return each answer's tokens; an error ends the step."""
    if failed := [one.error for one in done if one.error]:
        raise SystemExit(f"{len(failed)} failed: {failed[0]}")
    return {one.id: one.answer.token_ids for one in done}


def count_same_start(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many tokens are equal before the first that differs."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(ours), len(theirs)))


def count_equal(ours: Mapping[Any, list[int]], theirs: Mapping[Any, list[int]]) -> int:
    return sum(ours[one] == theirs[one] for one in theirs)


def generate(engine: LocalEngine, requests: Sequence[Request]) -> dict[Any, list[int]]:
    """Return transformers' own answers to prompts of equal length."""
    ids = torch.tensor([list(one.prompt) for one in requests], device=DEVICE)
    model = engine.loaded.model
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=requests[0].max_new_tokens,
            pad_token_id=0,
        )
    return {one.id: row for one, row in zip(requests, out[:, ids.shape[1] :].tolist(), strict=True)}
