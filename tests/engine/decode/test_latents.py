"""Attention with latents (MLA) goes in the single call: logits of the model, tokens of generate,
and what is wrong shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import all_logits, with_fast_kernels
from lively_norms import make_norms_lively
from opening import make_spec, open_engine
from streams import complete
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import describe_model
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import Latent, RopePoints
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
# of the logits' spread: the farthest, and in 16 bits their mean
OFF = {Dtype.float32: 2e-5, Dtype.bfloat16: 0.04}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # neighbours are rotated into halves; experts from layer 1 on
    "deepseek_v3": ("deepseek_v3", {}),
    "queries at once": ("deepseek_v3", {"q_lora_rank": None}),
    "in halves": ("deepseek_v3", {"rope_interleave": False}),
    "wide values": ("deepseek_v3", {"v_head_dim": 48}),
    "narrow values": ("deepseek_v3", {"v_head_dim": 8}),
    "deepseek_v2": ("deepseek_v2", {}),  # complex numbers
    "glm4_moe_lite": ("glm4_moe_lite", {}),
    "minicpm3": ("minicpm3", {}),  # what layers add is scaled
    "youtu": ("youtu", {}),
    "axk1": ("axk1", {}),
}
Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(case: str, dtype: Dtype = Dtype.float32, **settings: Any) -> LocalEngine:
        family, keys = CASES[case]
        monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | keys)
        families.build(family, tmp_path / family)
        make_norms_lively(tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=dtype)
        return open_engine(make_spec(model=model, **settings))

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("case", list(CASES))
def test_its_logits_are_those_of_the_model(case: str, dtype: Dtype, engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(case, dtype))
    assert fused is not None
    assert all(layer.latent for layer in fused.weights.layers)
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        off = (all_logits(forward, with_prefix) - expected).abs()
        assert (off.max() if dtype == Dtype.float32 else off.mean()) <= OFF[dtype] * expected.std()


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["deepseek_v3", "deepseek_v2", "queries at once", "minicpm3"])
def test_its_tokens_are_those_of_generate(case: str, engine_of: Make) -> None:
    engine = engine_of(case)
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


@pytest.mark.thorough
def test_keys_in_bytes_have_no_scale_of_what_is_behind_a_narrow_head(engine_of: Make) -> None:
    generation = GenerationConfig(kv_cache=KvCache.int8)
    loaded, heads, fused = with_fast_kernels(engine_of("narrow values", generation=generation))
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().mean() <= 1e-3 * expected.std()


def _latents(fused: FusedForward) -> list[Latent]:
    return [Latent.from_address(layer.latent) for layer in fused.weights.layers]


def _as_neighbours(fused: FusedForward) -> None:
    fused.weights.model.points = RopePoints.points_in_halves


def _unrotated(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.rope = -1


def _exchanged_norms(fused: FusedForward) -> None:
    first, second = _latents(fused)
    weights = second.norm_pairs.weight, first.norm_pairs.weight
    first.norm_pairs.weight, second.norm_pairs.weight = weights


def _exchanged_pairs(fused: FusedForward) -> None:
    first, second = _latents(fused)
    first.to_pairs, second.to_pairs = second.to_pairs, first.to_pairs


def _other_scale(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.scale = 0.5


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change", [_as_neighbours, _unrotated, _exchanged_norms, _exchanged_pairs, _other_scale]
)
def test_what_is_wrong_shows_in_the_logits(change: Callable[[FusedForward], None], engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("deepseek_v3"))
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    change(fused)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() > 50 * OFF[
        Dtype.float32
    ] * expected.std()


@pytest.mark.thorough
def test_numbers_that_do_not_fit_are_refused(engine_of: Make) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("deepseek_v3"))
    assert fused is not None
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    _latents(fused)[0].value = heads.dim + 1
    with pytest.raises(IndexError):
        all_logits(forward, with_prefix=False)


@pytest.mark.thorough
def test_what_heads_come_out_of_is_found(engine_of: Make) -> None:
    loaded, heads, _ = with_fast_kernels(engine_of("narrow values"))
    found = describe_model(loaded.model, heads).layers[1].attention
    assert found is not None
    assert found.latent is not None
    latent = found.latent
    assert (latent.query_width, latent.pair_width) == (24, 16)
    assert (latent.unrotated, latent.rotated, latent.value) == (16, 8, 8)
    assert not torch.equal(latent.norm_pairs.weight, torch.ones(16))
