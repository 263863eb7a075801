"""The memory attributable to a model is counted, and equals the size of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete, requests

from runner_base import processor
from runner_base.dtypes import Dtype
from runner_base.machine import MIB
from runner_base.notes import text_note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.decode.static_batches import BY_GENERATE, BatchingMode
from runner_engine.kernels import native
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul.library_layers import TRIAL_ROWS
from runner_engine.memory.peak_memory import read_integer_config_values
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.base import EngineReport, Request
from runner_engine.sessions.contract import complete_requests as completions
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

Saved = Callable[..., Path]
PROMPT, NEW = tuple(range(10, 30)), 6  # tokens: 20 are read and 5 of the 6 new ones put back


def engine_of(folder: Path, attention: Attention = Attention.auto, **groups: Any) -> LocalEngine:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    return open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=NEW), **groups))


def ask(engine: LocalEngine, rows: int) -> None:
    """Decode rows of equal length, without a common prefix, together up to their limit."""
    prompts = (tuple(token + row for token in PROMPT) for row in range(rows))
    asked = [Request(number, prompt, ignore_eos=True) for number, prompt in enumerate(prompts)]
    assert len(list(completions(engine, asked))) == rows


@pytest.mark.sampled(1)
@pytest.mark.parametrize("batching", [None, BatchingMode(), BY_GENERATE], ids=str)
def test_the_most_keys_and_values_at_once_are_counted(
    saved_family: Saved, batching: BatchingMode | None
) -> None:
    engine = engine_of(saved_family("llama"), Attention.sdpa if batching else Attention.auto)
    engine.load()
    engine._batching = batching
    it = engine.loaded.model.config
    a_token = 2 * it.num_hidden_layers * it.num_key_value_heads * it.head_dim * 4
    ask(engine, 3)
    assert engine.stats.peak_kv_bytes == 3 * (len(PROMPT) + NEW - 1) * a_token
    ask(engine, 1)
    assert engine.stats.peak_kv_bytes == 3 * (len(PROMPT) + NEW - 1) * a_token, "a peak stays"
    assert engine.stats.peak_pass_tokens == 3 * len(PROMPT)
    assert engine.stats.peak_pass_logits == 3
    memory = engine.stats.compute_peak_memory_metrics(engine.load().metrics["weight_mib"])
    settings = read_integer_config_values(engine.loaded.model)
    mlp = 3 * len(PROMPT) * (3 * settings["intermediate_size"] + 2 * settings["hidden_size"]) * 4
    assert memory["activation_mib"] * MIB >= mlp
    assert memory["model_mib"] == pytest.approx(
        engine.load().metrics["weight_mib"] + memory["kv_peak_mib"] + memory["activation_mib"]
    )
    engine.close()


@pytest.mark.thorough
def test_other_jobs_of_the_process_leave_no_mark(saved_family: Saved) -> None:
    bases = BaseModelCache()
    memory = []
    for rows in (1, 4, 1):
        engine = engine_of(saved_family("llama"))
        engine._bases, engine._owns_bases = bases, False
        ask(engine, rows)
        memory.append(engine.stats.compute_peak_memory_metrics(engine.load().metrics["weight_mib"]))
        engine.close()
    assert memory[0] == memory[2] != memory[1]


def test_branches_count(saved_family: Saved) -> None:
    engine = engine_of(saved_family("llama"), rope=Rope2dConfig())
    (done,) = completions(engine, [Request(0, "Tom has 3 pens.", branches=(" Ann", " Bob"), ignore_eos=True)])
    assert done.error is None
    it = engine.loaded.model.config
    places = done.prompt_tokens + 2 * (NEW - 1)
    assert (
        engine.stats.peak_kv_bytes
        == places * 2 * it.num_hidden_layers * it.num_key_value_heads * it.head_dim * 4
    )
    assert engine.stats.peak_pass_logits == done.prompt_tokens, "of all tokens"
    engine.close()


@pytest.mark.thorough
def test_a_shared_beginning_counts_once(saved_family: Saved) -> None:
    engine = engine_of(saved_family("llama", max_position_embeddings=512))
    complete(engine, requests())
    alone, stats = engine.stats.prefill_tokens + engine.stats.shared_tokens, engine.stats
    it = engine.loaded.model.config
    a_token = 2 * it.num_hidden_layers * it.num_key_value_heads * it.head_dim * 4
    assert stats.shared_tokens > 0
    assert stats.peak_kv_bytes < (alone + stats.decode_tokens) * a_token
    engine.close()


@pytest.mark.thorough
def test_the_copy_that_a_quantized_product_makes_counts(saved_family: Saved) -> None:
    plain = engine_of(saved_family("llama"))
    packed = engine_of(saved_family("llama"), quantization=Nf4Config())
    for engine in (plain, packed):
        ask(engine, 1)
    assert plain.load().metrics["unpacked_mib"] == 0
    largest = max(
        module.weight.numel() for name, module in plain.loaded.model.named_modules() if "mlp.up" in name
    )
    kernels = native.load_kernels()
    taken = largest * 2  # in bfloat16, the compute dtype
    if (
        kernels is not None and processor.has_bfloat16_matmul()
    ):  # nothing is copied: the kernels have room to work in
        taken = compute_quantized_workspace_nbytes(max(TRIAL_ROWS), 192, torch.get_num_threads())
    elif kernels is not None:
        taken = 0  # what is unpacked at a time is on the threads' stacks
    assert packed.load().metrics["unpacked_mib"] * MIB == taken
    more = packed.stats.peak_activation_bytes - plain.stats.peak_activation_bytes
    assert more == taken
    for engine in (plain, packed):
        engine.close()


def test_an_engine_that_sees_no_pass_says_nothing() -> None:
    assert EngineStats(peak_kv_bytes=MIB).compute_peak_memory_metrics(10.0) == {}
    assert (
        EngineStats(peak_activation_bytes=MIB).compute_peak_memory_metrics(
            EngineReport().metrics.get("weight_mib")
        )
        == {}
    )


def test_on_gpus_the_allocators_peak_is_the_models_own() -> None:
    stats = EngineStats(peak_kv_bytes=MIB, peak_activation_bytes=MIB, peak_cuda_bytes=9 * MIB)
    assert (
        stats.compute_peak_memory_metrics(5.0)["model_mib"]
        == stats.compute_peak_memory_metrics(5.0)["cuda_peak_mib"]
        == 9
    )


def test_what_several_starts_measured_is_one() -> None:
    a, b = text_note("a"), text_note("b")
    first = EngineStats(prefill_tokens=10, peak_kv_bytes=7, peak_rows=4, kv_tokens=3, notes=[a])
    later = EngineStats(prefill_tokens=5, peak_kv_bytes=2, peak_rows=6, notes=[a, b])
    whole = first + later
    assert (whole.prefill_tokens, whole.peak_kv_bytes, whole.peak_rows, whole.kv_tokens) == (15, 7, 6, 0)
    assert whole.notes == [a, b]
    between = whole - first
    assert (between.prefill_tokens, between.peak_kv_bytes, between.notes) == (5, 7, [])
