"""Formats of the KV cache in layers of other kinds: windows, soft caps, sinks, gates, and hybrids'
attention layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete

from runner_base.dtypes import Dtype
from runner_engine.kernels import native
from runner_engine.kv_cache import get_attention_kernels_if_supported
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.slow
Make = Callable[..., LocalEngine]
WINDOW = 24
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
# else a tiny Gemma repeats its last token for ever
LIVELY = {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW}, "gemma2": MIXED | LIVELY, "gemma3_text": MIXED | LIVELY, "gpt_oss": MIXED,
    "qwen3_5_text": {}, "lfm2": {}, "olmo_hybrid": {}, "bamba": {},
}  # fmt: skip
FIRST = "{keys: int4, values: int4, first_tokens: as_model}"
KINDS = ("int4", "k8v4", FIRST)
SHARED = [30 + place * 7 % 90 for place in range(90)]
PROMPTS = [
    [*SHARED, *range(100, 140)],
    [*SHARED, 9],
    [*SHARED, *range(60, 80)],
    [7, 8, 9, *range(40, 150)],
    [5],
    [*SHARED, 9],
]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    engines: list[LocalEngine] = []

    def make(family: str, kv_cache: str) -> LocalEngine:
        folder = tmp_path / family
        if not folder.exists():
            sizes = {"max_position_embeddings": 512} | FAMILIES[family]
            monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | sizes)
            families.build(family, folder)
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
        spec = make_spec(model=model, generation=GenerationConfig(max_new_tokens=12, kv_cache=kv_cache))
        engines.append(open_engine(spec))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def asked(**keys: Any) -> list[Request]:
    return [Request(number, tuple(ids), ignore_eos=True, **keys) for number, ids in enumerate(PROMPTS)]


def scores(engine: LocalEngine) -> torch.Tensor:
    """Return the log-probabilities of a continuation of each prompt."""
    continued = asked(continuation=tuple(range(20, 32)))
    found = {one.id: one.logprobs or [] for one in contract.complete_requests(engine, continued)}
    return torch.tensor([found[number] for number in sorted(found)])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kv_cache", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_the_rows_beside_it(engine_of: Make, family: str, kv_cache: str) -> None:
    engine = engine_of(family, kv_cache)
    alone = {number: tokens for one in asked() for number, tokens in complete(engine, [one]).items()}
    for rows in (None, 2):
        assert complete(engine, asked(), rows) == alone
    assert alone[1] == alone[5]
    assert len({tuple(tokens) for tokens in alone.values()}) > 2
    assert engine.stats.notes == []
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    assert heads.kv_cache == KvCache.parse(kv_cache)
    if get_attention_kernels_if_supported(heads) is not None:
        assert engine.fused is not None, "a pass in a single call, or in several"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kv_cache", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_alone_gives_the_log_probabilities_of_the_kernels(
    engine_of: Make, family: str, kv_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: in 16 bits, random weights make more noise of rounding than the difference that
    is looked for."""
    by_kernels, plain = scores(engine_of(family, kv_cache)), scores(engine_of(family, "as_model"))
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    by_torch = scores(engine_of(family, kv_cache))
    off, cost = ((by_kernels - other).abs().mean().item() for other in (by_torch, plain))
    assert cost > 1e-4, "fewer bits cost something"
    assert off < min(0.02, cost / 4)


@pytest.mark.parametrize("family", ["gpt_oss", "gemma2"])
def test_without_its_sinks_or_cap_it_is_another_model(
    engine_of: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what layers have beside keys matters over codes, too."""
    engine = engine_of(family, "int4")
    expected = scores(engine)
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    if get_attention_kernels_if_supported(heads) is None or engine.fused is None:
        pytest.skip("passes do not go in a single call here")
    for layer in engine.fused.weights.layers:
        layer.cap, layer.sinks = 0.0, None
    assert float((scores(engine) - expected).abs().mean()) > 1e-3
