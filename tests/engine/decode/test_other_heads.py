"""Heads that families make otherwise go in the single call: normed when rotated, scaled by
position, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forward_pass import all_logits, with_fast_kernels
from lively_norms import make_norms_lively
from opening import make_spec, open_engine
from streams import complete
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
# of the logits' spread: the farthest, and in 16 bits their mean
OFF = {Dtype.float32: 2e-5, Dtype.bfloat16: 0.04}
# queries grow every 16 positions
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0}
GROWING = YARN | {"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5}
FAMILIES: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {},  # heads are normed when they have been rotated
    "ministral3": {"rope_parameters": GROWING},
    "gpt_neox": {},  # a head's query, key and value side by side; an MLP beside attention with a norm of its own
    "persimmon": {},  # with layer norms of heads
}
Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(family: str, dtype: Dtype = Dtype.float32, **keys: Any) -> LocalEngine:
        own = families.OVERRIDES.get(family, {}) | FAMILIES[family] | keys
        monkeypatch.setitem(families.OVERRIDES, family, own)
        families.build(family, tmp_path / family)
        make_norms_lively(tmp_path / family)
        return open_engine(
            make_spec(model=LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=dtype))
        )

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_its_logits_are_those_of_the_model(family: str, dtype: Dtype, engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(family, dtype))
    assert fused is not None
    assert not fused.has_separate_mlps
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        off = (all_logits(forward, with_prefix) - expected).abs()
        assert (off.max() if dtype == Dtype.float32 else off.mean()) <= OFF[dtype] * expected.std()


@pytest.mark.thorough
@pytest.mark.parametrize("family", list(FAMILIES))
def test_its_tokens_are_those_of_generate(family: str, engine_of: Make) -> None:
    engine = engine_of(family)
    engine.load()
    model = AutoModelForCausalLM.from_pretrained(engine.spec.model.name, dtype="float32").eval()
    expected = dict(enumerate(families.by_generate(model)))
    asked = [
        Request(number, ids, ignore_eos=True, max_new_tokens=count)
        for number, (ids, count) in enumerate(zip(families.PROMPTS, families.NEW_TOKENS, strict=True))
    ]
    assert complete(engine, asked) == expected
    assert engine.fused is not None
    engine.close()


def _normed_before(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.norms_rotated = 0


def _not_scaled(fused: FusedForward) -> None:
    fused.weights.model.query_scales = None


def _not_together(fused: FusedForward) -> None:
    fused.weights.model.has_heads_together = 0


def _one_after_the_other(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.is_parallel = 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("hunyuan_v1_dense", _normed_before),
        ("ministral3", _not_scaled),
        ("gpt_neox", _not_together),
        ("gpt_neox", _one_after_the_other),
    ],
)
def test_what_is_wrong_shows_in_the_logits(
    family: str, change: Callable[[FusedForward], None], engine_of: Make
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(family))
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    change(fused)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() > 50 * OFF[
        Dtype.float32
    ] * expected.std()


def test_positions_that_are_used_otherwise_keep_the_models_own_pass(engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("ministral3"))
    assert fused is not None
    kernels = native.load_kernels()
    assert kernels is not None
    loaded.model.config.rope_parameters.pop("llama_4_scaling_beta")
    with pytest.raises(NotFusable, match="^attention .* token positions "):
        FusedForward(loaded.model, heads, 64, kernels, {})
