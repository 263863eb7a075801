"""What a GPU has for single layers: attention by length, norms, and layers that do not make the
host wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attending import GPU
from group_layers import layer_of
from operations import Operations
from step_decoding import FAMILIES, IDS
from transformers import AutoModelForCausalLM

from runner_engine.attention import device_attention
from runner_engine.attention.device_attention import OwnKeys, compute_variable_length_attention
from runner_engine.attention.partial_attention import Scaling
from runner_engine.decode.norms import GpuNorms
from runner_engine.decode.passes.host_sync import ForbidHostSync
from runner_engine.kv_cache.kv_store import KvCacheSpec


@pytest.mark.parametrize(("has_flash", "by"), [(True, "flash"), (False, "efficient")])
def test_a_gpu_without_flash_attention_has_another_function(
    monkeypatch: pytest.MonkeyPatch, has_flash: bool, by: str
) -> None:
    """GPUs older than Ampere; tensors without numbers stand for theirs."""
    monkeypatch.setattr(device_attention, "has_flash_attention", lambda _: has_flash)
    monkeypatch.setattr(device_attention, "_is_supported_by_sdpa", lambda *_: True)
    query, keys = (torch.empty(2, 4, length, 64, dtype=torch.float16, device="meta") for length in (1, 30))
    with Operations() as seen:
        device_attention.attend(Scaling(1.0, 0.0), query, keys, keys)
    assert [name for name, *_ in seen.calls if "scaled_dot" in name] == [
        f"_scaled_dot_product_{by}_attention"
    ]
    heads = KvCacheSpec(1, 2, 2, 64, torch.float16, torch.device("cuda"), by_sdpa=True)
    assert device_attention.supports_variable_key_counts(heads) is has_flash
    assert not device_attention.supports_variable_key_counts(replace(heads, dtype=torch.float32))


@GPU
def test_flash_attention_by_length_is_that_of_the_reference() -> None:
    """Beside the one of a CPU in float32, with and without a window; and a recorded one follows the
    numbers of keys."""
    generator = torch.Generator("cuda").manual_seed(0)
    rows, places, kv_heads, group, dim = 5, 96, 2, 3, 64

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    query, keys, values = (
        some(rows, kv_heads * group, dim),
        *(some(rows * places, kv_heads, dim) for _ in range(2)),
    )
    numbers = torch.arange(rows + 1, device="cuda", dtype=torch.int32)
    starts = numbers * places
    for window in (None, 16):
        counts = torch.tensor([1, 96, 40, 17, 3], device="cuda", dtype=torch.int32)
        own = OwnKeys(keys, values, numbers, starts, counts, places, window)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = compute_variable_length_attention(Scaling(0.1, 0.0), query, own)
        for seen in ([1, 96, 40, 17, 3], [50, 2, 96, 1, 20]):
            counts.copy_(torch.tensor(seen))
            graph.replay()
            here = (keys.cpu().float(), values.cpu().float(), numbers.cpu(), starts.cpu(), counts.cpu())
            expected = compute_variable_length_attention(
                Scaling(0.1, 0.0), query.cpu().float(), OwnKeys(*here, places, window)
            )
            for ours, theirs in zip(recorded, expected, strict=True):
                assert float((ours.cpu().float() - theirs).abs().max()) < 0.02


@pytest.mark.parametrize("kind", ["gptq", "gptq_order", "awq"])
def test_a_layer_of_groups_asks_for_its_order_once(kind: str) -> None:
    """In each layer of each step it would make the host wait; new numbers in the tensor are read
    again."""
    layer, _ = layer_of(kind, 64, 256)
    rows = torch.ones(1, 256)
    expected = layer.multiply_dequantized(rows)
    with ForbidHostSync():
        again = layer.multiply_dequantized(rows)
    assert torch.equal(again, expected)
    if kind == "gptq_order":
        order = layer.stored[layer.layout.order_name]
        order.copy_(torch.arange(256) // layer.layout.group)
        assert layer.input_group_indices is None


def test_norms_on_a_gpu_are_the_models_own(saved_family: Callable[..., Path]) -> None:
    """Gemma's norms use their weights in another way, so they stay."""
    for family, replaced in (("llama", 5), ("gemma2", 0)):
        model = AutoModelForCausalLM.from_config(FAMILIES[family])
        for one in model.modules():
            if type(one).__name__.endswith("RMSNorm"):
                torch.nn.init.normal_(one.weight)
        ids = torch.tensor([IDS[:20]])
        with torch.inference_mode():
            usual = model(ids).logits
            norms = GpuNorms(model)
            assert len(norms.layers) == replaced
            assert float((model(ids).logits - usual).abs().max() / usual.std()) < 1e-4
            norms.restore()
            assert torch.equal(model(ids).logits, usual)
