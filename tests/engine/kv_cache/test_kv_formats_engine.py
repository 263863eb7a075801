"""An engine with keys and values of other formats: the same answers beside other rows, and as torch
alone computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec
from raising import raises
from streams import PROMPTS, complete, requests

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.kernels import native
from runner_engine.kv_cache import get_attention_kernels_if_supported
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., LocalEngine]
KINDS = ("int4", "k8v4", "{keys: as_model, values: int8, layers: {0: int4}}")


@pytest.fixture
def engine_of(opened: Make, saved_family: Callable[..., Path]) -> Make:
    def make(kv_cache: object, dtype: Dtype = Dtype.float32, family: str = "llama") -> LocalEngine:
        folder = saved_family(family, max_position_embeddings=512)
        generation = GenerationConfig(max_new_tokens=12, kv_cache=kv_cache)
        return opened(
            model=LocalModelConfig(name=str(folder), device="cpu", dtype=dtype), generation=generation
        )

    return make


def scores(engine: LocalEngine) -> torch.Tensor:
    """Return the log-probabilities of a continuation of each prompt."""
    asked = [Request(number, prompt, continuation=" and so on.") for number, prompt in enumerate(PROMPTS)]
    found = {one.id: one.logprobs or [] for one in contract.complete_requests(engine, asked)}
    return torch.tensor([found[number] for number in sorted(found)])


@pytest.mark.thorough
@pytest.mark.parametrize("kv_cache", KINDS)
def test_an_answer_does_not_depend_on_the_rows_beside_it(engine_of: Make, kv_cache: str) -> None:
    engine = engine_of(kv_cache)
    alone = {number: tokens for one in requests() for number, tokens in complete(engine, [one]).items()}
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    assert str(heads.kv_cache) == str(KvCache.parse(kv_cache))
    assert str(engine.load().facts["kv_cache"]).startswith(str(heads.kv_cache))
    for rows in (None, 2):
        assert complete(engine, requests(), rows) == alone
    assert engine.stats.shared_tokens > 100
    assert engine.stats.notes == []
    if get_attention_kernels_if_supported(heads) is not None:
        assert engine.fused is not None, "a pass in a single call"


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("kv_cache", KINDS)
def test_torch_alone_gives_the_log_probabilities_of_the_kernels(
    engine_of: Make, kv_cache: str, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernels = scores(engine_of(kv_cache, dtype))
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    by_torch, plain = scores(engine_of(kv_cache, dtype)), scores(engine_of("as_model", dtype))
    assert float((by_kernels - by_torch).abs().mean()) < (0.02 if dtype is Dtype.float32 else 0.1)
    assert 1e-4 < float((by_kernels - plain).abs().mean()) < 0.2, "fewer bits cost something, and little"


def test_a_layer_that_the_model_does_not_have_is_said_before_the_load(saved_family: Any) -> None:
    from runner_engine import resolve_model
    from runner_engine.local.preload_checks import check_model_and_adapter_files

    model = LocalModelConfig(name=str(saved_family("llama")), device="cpu")
    of = {"keys": "int8", "layers": {77: "as_model"}}
    spec = make_spec(model=model, generation=GenerationConfig(kv_cache=of))
    with raises(ConfigError, "bad_value", "generation.kv_cache"):
        check_model_and_adapter_files(resolve_model(spec))
