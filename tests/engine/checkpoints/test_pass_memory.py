"""The predicted memory of drawing tokens, and of what recorded decoding steps keep, against what is
really taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, predict
from torch.profiler import ProfilerActivity, profile

from runner_base.dtypes import Dtype
from runner_engine.checkpoints import pass_memory
from runner_engine.checkpoints.pass_memory import (
    compute_sampling_bytes_per_logit,
    count_cuda_graph_logit_vectors,
)
from runner_engine.decode.passes import device_step, step_graphs
from runner_engine.decode.tokens.sampling import Sampler, create_random_generator
from runner_engine.kernels import token_selection
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import GREEDY, Sampling

ROWS, VOCABULARY = 16, 20_000
SAMPLED = replace(GREEDY, temperature=0.7, seed=1)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that torch has allocated on the CPU at one time while it did this."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    "keys",
    [{}, {"top_k": 50}, {"min_p": 0.1}, {"top_p": 0.9}, {"repetition_penalty": 1.2}, {"top_p": 0.9, "presence_penalty": 1.0}],
    ids=str,
)  # fmt: skip
def test_what_a_gpu_needs_to_draw_tokens(monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]) -> None:
    monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)  # as on a GPU
    sampling: Sampling = replace(SAMPLED, **keys)
    logits = torch.randn(ROWS, VOCABULARY).bfloat16()

    def draw() -> None:
        generators = [create_random_generator(sampling, row) for row in range(ROWS)]
        Sampler(VOCABULARY, torch.device("cpu"), [[1]] * ROWS, [sampling] * ROWS, generators).sample(logits)

    draw()
    of_logits = 4  # in float32, which greedy rows count, too
    predicted = (of_logits + compute_sampling_bytes_per_logit(sampling)) * ROWS * VOCABULARY
    assert 0.85 * predicted < peak_bytes(draw) < 1.02 * predicted


@pytest.mark.parametrize(
    ("rows", "first", "last"), [(1, 40, 300), (16, 100, 420), (128, 64, 1000), (512, 700, 1200)]
)
def test_logits_that_recorded_steps_keep(rows: int, first: int, last: int) -> None:
    """All rows decode to the end, and then end one after another; shapes that occur often are
    recorded."""
    for by_length in (False, True):
        occurred: Counter[tuple[int, int]] = Counter()
        for place in range(first, last):
            places = 0 if by_length else device_step._round_up_positions_to_limit_shapes(place + 1, 10**9)
            occurred[pass_memory.round_up_batch_size(rows), places] += 1
        for left in range(rows, 0, -1):
            occurred[pass_memory.round_up_batch_size(left), places] += step_graphs.RECORD_AT
        kept = sum(count for (count, _), times in occurred.items() if times >= step_graphs.RECORD_AT)
        assert (
            kept <= count_cuda_graph_logit_vectors(rows, *(() if by_length else (first, last))) <= 1.3 * kept
        )


def test_a_plan_for_a_gpu_counts_them(saved_family: Callable[..., Path]) -> None:
    folder = saved_family(vocab_size=50_000)

    def decode_bytes(device: str, dtype: Dtype = Dtype.float32, **groups: Any) -> int:
        model = LocalModelConfig(name=str(folder), device=device, dtype=dtype)
        found = predict(make_spec(model=model, **groups), 32, 100, 300)
        assert found is not None
        return found.decode_activation_bytes

    drawn = GenerationConfig(temperature=0.7, top_p=1.0)
    assert decode_bytes("cpu", generation=drawn) == decode_bytes("cpu"), "C draws there"
    assert decode_bytes("cuda", generation=drawn) - decode_bytes("cuda") == 32 * 50_000 * 16
    assert decode_bytes("cuda") == 50_000 * (32 * (4 + 4) + count_cuda_graph_logit_vectors(32, 100, 400) * 4)
    assert decode_bytes("cuda", Dtype.bfloat16) == 50_000 * (
        32 * (2 + 4) + count_cuda_graph_logit_vectors(32) * 2
    )
