"""Families beside the plain Llama go in a single call: their logits, their tokens, and what is
wrong is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import OFF, check_logits, check_that_it_shows, with_fast_kernels
from opening import make_spec, open_engine
from streams import complete
from torch import nn
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.layouts.activations import identify_activation
from runner_engine.decode.layouts.norms import infer_norm_layout
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import Activation, NormKind
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
# else a tiny Gemma repeats its last token for ever
LIVELY = {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
# families by what they have, and keys so that it matters
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {},  # 1 is added to the weights of norms, rows of the embedding are scaled, GELU
    "gemma2": LIVELY | SLIDING | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},  # norms behind, caps
    "gemma3_text": LIVELY | SLIDING,  # two rotary tables
    "vaultgemma": SLIDING,
    "phi3": {},  # one matrix for queries, keys and values, and one for the MLP
    "olmo": {},  # norms without weights
    "olmo2": {},  # norms only behind; those of queries over all heads
    "olmo3": SLIDING,
    "exaone4": SLIDING,
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0, "attention_multiplier": 0.3},
    "glm": {"attention_bias": True},  # half of each head is rotated, by neighbours
    "glm4": {"attention_bias": True},
    "smollm3": {"no_rope_layers": [1, 0]},  # a layer without rotation
    "cohere": {"logit_scale": 0.5},  # an MLP beside attention, layer norms without biases
    "cohere2": SLIDING | {"logit_scale": 0.5},
    "starcoder2": {},  # layer norms, biases, an MLP without a gate
    "phi": {},  # all of these at once, and a head with a bias
    "stablelm": {"use_parallel_residual": False},
    "arcee": {},  # squared ReLU
    "nemotron": {},
    "mistral": {},
    "helium": {},
    "ernie4_5": {},
    "gpt_oss": {"layer_types": SLIDING["layer_types"]},  # sinks; experts and a router with biases, a clamped gate
    "qwen3_moe": {"decoder_sparse_step": 2},  # a mixture in every second layer
    "mixtral": {"num_local_experts": 8},
    "olmoe": {},
    "flex_olmo": {},  # norms only behind
    "qwen2_moe": {},  # an MLP beside the experts, scaled for each token
    "granitemoe": {"residual_multiplier": 0.5},
    "glm4_moe": {"n_routed_experts": 8, "n_group": 4, "topk_group": 2},  # groups, a correction, an MLP beside the experts
    "phimoe": {},  # a router that C does not know: its own module computes its experts
    "gpt2": {},  # places in a table, matrices the other way round
    "apertus": {},  # a function that C does not know
    "opt": {},  # an MLP in the layer itself, positions from the third row on, queries scaled before attention
    "biogpt": {},
    "falcon": {},  # attention by an adapter; one head of keys
    "llama4_text": {"no_rope_layers": [1, 0]},  # complex rotation, a norm behind it, queries scaled by position
}  # fmt: skip
# other forms of a family
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("stablelm", {"use_parallel_residual": True}),
]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LocalEngine]:
    def make(family: str, dtype: Dtype = Dtype.float32, **keys: Any) -> LocalEngine:
        own = families.OVERRIDES.get(family, {}) | FAMILIES.get(family, {}) | keys
        monkeypatch.setitem(families.OVERRIDES, family, own)
        families.build(family, tmp_path / family)
        return open_engine(
            make_spec(model=LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=dtype))
        )

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_its_logits_are_those_of_the_model(
    family: str, dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    """Rows of all kinds, some longer than a window of 16."""
    check_logits(engine_of(family, dtype), dtype)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
@pytest.mark.parametrize(("family", "keys"), FORMS)
def test_logits_of_another_form_are_those_of_the_model(
    family: str, keys: dict[str, Any], dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    check_logits(engine_of(family, dtype, **keys), dtype)


@pytest.mark.thorough
@pytest.mark.parametrize("family", list(FAMILIES))
def test_its_tokens_are_those_of_generate(family: str, engine_of: Callable[..., LocalEngine]) -> None:
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


def _without(*names: str) -> Callable[[FusedForward], None]:
    """Return a change: the layers have no such norms."""

    def change(fused: FusedForward) -> None:
        for layer in fused.weights.layers:
            for name in names:
                getattr(layer, name).weight = None

    return change


def _with(**values: Any) -> Callable[[FusedForward], None]:
    """Return a change: numbers of all layers, or of the model, are others."""

    def change(fused: FusedForward) -> None:
        for name, value in values.items():
            for of in (fused.weights.model, *fused.weights.layers):
                if hasattr(of, name):
                    setattr(of, name, value)

    return change


def _scaled_outputs(fused: FusedForward) -> None:
    """Scale what experts give, and not what they read."""
    for mixture in fused.weights.mixtures.of_layer.values():
        mixture.scales_inputs = 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gemma2", _with(cap=0.0)),
        ("gemma2", _with(logit_cap=0.0)),
        ("gemma2", _with(window=0)),
        ("gemma2", _without("after_attention")),
        ("gemma2", _with(embedding_scale=1.0)),
        ("gemma3_text", _with(rope=0)),
        ("olmo2", _without("after_mlp")),
        ("olmo2", _without("norm_q", "norm_k")),
        ("granite", _with(residual_scale=1.0)),
        ("granite", _with(logit_scale=1.0)),
        ("granite", _with(scale=0.25)),
        ("glm4", _with(points=0)),
        ("smollm3", _with(rope=0)),
        ("starcoder2", _with(activation=int(Activation.relu))),
        ("gpt_oss", _with(sinks=None)),
        ("gpt2", _with(position_embedding=None)),
        ("opt", _with(position_embedding=None)),
        ("opt", _with(scale=1.0)),
        ("falcon", _with(is_parallel=0)),
        ("llama4_text", _with(scales_queries=0)),
        ("llama4_text", _with(points=0)),
        ("llama4_text", _scaled_outputs),
        ("llama4_text", _without("norm_q", "norm_k")),
    ],
)
def test_what_is_wrong_shows_in_the_logits(
    family: str, change: Callable[[FusedForward], None], engine_of: Callable[..., LocalEngine]
) -> None:
    check_that_it_shows(engine_of(family), change)


@pytest.mark.thorough
def test_the_trial_refuses_a_layout_that_lacks_something(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_fast_kernels(engine_of("granite"))[2] is not None
    monkeypatch.setattr("runner_engine.decode.layouts.model._find_logit_scale", lambda *_: 1.0)
    assert with_fast_kernels(engine_of("granite"))[2] is None


@pytest.mark.thorough
def test_each_window_hides_what_the_model_hides(engine_of: Callable[..., LocalEngine]) -> None:
    """Tokens are read in one pass with their prefix, as a span, and one by one."""
    fused = with_fast_kernels(engine_of("gemma3_text"))[2]
    assert fused is not None
    assert [layer.window for layer in fused.weights.layers] == [1, 0]
    assert [layer.rope for layer in fused.weights.layers] == [0, 1]


def test_only_mlps_that_c_does_not_know_are_computed_by_their_modules(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_EXPERTS", "plain")  # C reads no experts
    loaded, _, fused = with_fast_kernels(engine_of("qwen3_moe"))
    assert fused is not None
    assert [layer.mlp_apart for layer in fused.weights.layers] == [0, 1]
    assert fused.weights.apart == {1: loaded.model.model.layers[1].mlp}
    assert fused.has_separate_mlps
    assert not fused.is_by_row, "what a module makes of a row may depend on other rows"


def test_parts_that_c_does_not_know_are_named(engine_of: Callable[..., LocalEngine]) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("bitnet"))
    assert fused is None
    kernels = native.load_kernels()
    assert kernels is not None
    with pytest.raises(NotFusable, match="^BitNetAttention .*: attn_sub_norm, "):
        FusedForward(loaded.model, heads, 64, kernels, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kind_of_a_norm_is_found_by_a_trial(dtype: torch.dtype) -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    torch.manual_seed(0)
    like = torch.zeros(1, dtype=dtype)
    llama, layer_norm = LlamaRMSNorm(64), nn.LayerNorm(64)
    norms: dict[Any, float] = {llama: 0.0, Gemma2RMSNorm(64): 1.0, Olmo2RMSNorm(64): 0.0, layer_norm: 0.0}
    with torch.no_grad():
        for norm, adds_one in norms.items():
            norm.to(dtype).weight.normal_()
            found = infer_norm_layout(norm, 64, like)
            assert torch.equal(found.weight.float(), norm.weight.float() + adds_one)
            assert (found.kind is NormKind.layer_norm) == isinstance(norm, nn.LayerNorm)
            assert found.kind is not NormKind.rms_in_steps or not adds_one
        assert infer_norm_layout(llama, 64, like).kind is NormKind.rms_in_steps
        with pytest.raises(NotFusable, match="norm GroupNorm$"):
            infer_norm_layout(nn.GroupNorm(4, 64), 64, like)


def test_two_kinds_of_gelu_are_told_apart() -> None:
    assert identify_activation(nn.GELU()) is Activation.gelu
    assert identify_activation(nn.GELU(approximate="tanh")) is Activation.tanh_gelu
    with pytest.raises(NotFusable, match="Tanh"):
        identify_activation(nn.Tanh())
