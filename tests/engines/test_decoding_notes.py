"""Results of jobs say how their answers were decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import CUDA_SAYS, forwards
from streams import AGENTS, NEW_TOKENS, SYSTEM

from runner.config.measures import SweepConfig
from runner.config.prompts import Framing
from runner.config.root import RunnerConfig
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.dtypes import Dtype
from runner_engine.decode.scheduler import Scheduler
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

pytestmark = pytest.mark.slow

Make = Callable[..., RunnerConfig]
Saved = Callable[..., Path]
GREEDY = GenerationConfig(max_new_tokens=NEW_TOKENS)
PLAIN = "decoding uses static batching (slower)"


def configure(
    make_config: Make, folder: Path, attention: Attention = Attention.auto, **groups: Any
) -> RunnerConfig:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    return make_config(**({"model": model, "generation": GREEDY} | groups))


@pytest.mark.parametrize(
    "task",
    [
        GenerateConfig(prompt=SYSTEM + AGENTS[0], format=Framing.raw),
        Gsm8kConfig(limit=2, shots=1),
        SweepConfig(batch_sizes=[2], prompt_tokens=[20], new_tokens=3, warmup=0, repeats=1),
    ],
    ids=lambda task: task.name,
)
def test_the_result_of_a_job_says_that_decoding_was_plain(
    make_config: Make, saved_family: Saved, task: Any
) -> None:
    folder = saved_family("llama", max_position_embeddings=4096)
    plain = run(configure(make_config, folder, Attention.sdpa, task=task))
    assert plain.result is not None
    assert [note for note in plain.result.notes if PLAIN in note] == [
        f"{PLAIN}: model.attention=sdpa does not support continuous batching"
    ]
    streamed = run(configure(make_config, folder, task=task))
    assert streamed.result is not None
    assert not any(PLAIN in note for note in streamed.result.notes)


def test_a_sweep_does_not_call_half_a_batch_a_whole_one(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> None:
    model = LocalModelConfig(name=str(saved_family("llama")), device="cpu", dtype=Dtype.float32)
    task = SweepConfig(batch_sizes=[2, 6], prompt_tokens=[20], new_tokens=4, warmup=0, repeats=2)

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if len(running.rows.active) > 4:
            raise torch.OutOfMemoryError(CUDA_SAYS)

    with forwards(fail):
        record = run(make_config(model=model, generation=GREEDY, task=task))
    assert record.result is not None
    small, large = record.result.rows
    assert not small["note"]
    assert large["decode_tok_per_s"] is None
    assert "memory ran out with 6 sequences in the batch" in large["note"]
