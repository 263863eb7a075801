"""Layers that attend to the keys and values of an earlier layer: these are stored once, and answers
are generate's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec, open_engine
from streams import complete, generated
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.kv_cache import KvCacheSpec
from runner_engine.local import engine as engine_module
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from tools import families

LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SIZES: dict[str, Any] = {
    "num_hidden_layers": 4, "layer_types": LAYERS, "num_kv_shared_layers": 2, "sliding_window": 16,
    "max_position_embeddings": 256,
}  # fmt: skip
PROMPTS = [[30 + place * 7 % 90 for place in range(120)], [*range(40, 53)], [5]]
NEW_TOKENS = 24


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LocalEngine]:
    def make(family: str) -> LocalEngine:
        monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | SIZES)
        families.build(family, tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=Dtype.float32)
        return open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=NEW_TOKENS)))

    return make


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", ["kernels", "sdpa"])
@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text"])
def test_layers_that_share_keys_store_them_once(
    engine_of: Callable[[str], LocalEngine], family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "sdpa":
        monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    engine = engine_of(family)
    engine.load()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None, engine.stats.notes
    assert (heads.layers, heads.stores) == (2, (0, 1, 0, 1))
    assert len(heads.windows) == 4
    assert len(heads.widest_windows) == 2
    settings = engine.loaded.model.config.to_dict()
    assert compute_kv_size(settings, 4, head_dim_multiple=16).token_bytes == heads.bytes_per_token
    model = AutoModelForCausalLM.from_pretrained(engine.spec.model.name, dtype="float32").eval()
    expected = generated(model, lambda prompt: {"input_ids": prompt}, PROMPTS, NEW_TOKENS)  # type: ignore[arg-type]
    requests = [Request(number, tuple(ids)) for number, ids in enumerate(PROMPTS)]
    assert complete(engine, requests) == expected
    engine.close()


def test_the_layer_whose_keys_are_read_matters(
    engine_of: Callable[[str], LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the two exchanged, a model answers otherwise. The single call has the number in its structures
    (test_gemma_layers.py)."""
    monkeypatch.setattr(engine_module, "build_and_verify_fused_forward", lambda *_arguments: None)
    engine = engine_of("gemma3n_text")
    engine.load()
    right = engine.find_kv_spec(engine.loaded)
    assert right is not None
    requests = [Request(number, tuple(ids)) for number, ids in enumerate(PROMPTS)]
    expected = complete(engine, requests)
    monkeypatch.setattr(KvCacheSpec, "store_layer", lambda heads, layer: (0, 1, 1, 0)[layer])
    wrong = engine.find_kv_spec(engine.loaded)
    assert wrong == replace(right)
    assert complete(engine, requests) != expected
    engine.close()
