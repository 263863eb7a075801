"""Gemma 3n and 4 go in a single call: heads of several shapes, keys of earlier layers, inputs of
layers, streams beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import check_logits, check_that_it_shows, with_fast_kernels
from opening import make_spec, open_engine
from safetensors.torch import load_file, save_file
from streams import complete
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.kernels import native
from runner_engine.kernels.stream_structures import (
    HeadShape,
    LayerInput,
    ModelInputs,
    ModelStreams,
    StreamLayer,
)
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SHARED: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": LAYERS, "num_kv_shared_layers": 2}
# wide enough for blocks of 4-bit weights
WIDE = {"hidden_size": 128, "hidden_size_per_layer_input": 64, "head_dim": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": ("gemma3n_text", SHARED),
    "gemma3n, other active stream": ("gemma3n_text", SHARED | {"altup_active_idx": 2, "altup_num_inputs": 3}),
    "gemma3n, unscaled": ("gemma3n_text", SHARED | {"altup_correct_scale": False}),
    "gemma4": ("gemma4_text", SHARED | {"use_double_wide_mlp": True, "global_head_dim": 32}),
    # the full layers' keys are their values, on one head
    "gemma4, keys as values": (
        "gemma4_text",
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "global_head_dim": 48, "num_key_value_heads": 2},
    ),
    "gemma4, no inputs": ("gemma4_text", {"hidden_size_per_layer_input": 0, "global_head_dim": 24}),
    "gemma4_unified": ("gemma4_unified_text", {}),
    "gemma3n, wide": ("gemma3n_text", SHARED | WIDE | {"intermediate_size": [128] * 4, "laurel_rank": 64}),
    "gemma4, wide": ("gemma4_text", SHARED | WIDE | {"intermediate_size": 128, "global_head_dim": 64}),
}  # fmt: skip
Make = Callable[..., LocalEngine]
LIVELY = ("layer_scalar", "correct_output_scale")  # those of a new model are all 1 or all 0


def _make_lively(folder: Path) -> None:
    """Give norms and scales of a saved model random weights."""
    random = torch.Generator().manual_seed(1)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if ("norm" in name and name.endswith("weight")) or name.endswith(LIVELY):
                tensors[name] = 0.5 + torch.rand(tensor.shape, generator=random)
        save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(case: str, dtype: Dtype = Dtype.float32, **settings: Any) -> LocalEngine:
        family, keys = CASES[case]
        monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | keys)
        families.build(family, tmp_path / family)
        _make_lively(tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=dtype)
        return open_engine(make_spec(model=model, **settings))

    return make


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("case", list(CASES))
def test_its_logits_are_those_of_the_model(case: str, dtype: Dtype, engine_of: Make) -> None:
    check_logits(engine_of(case, dtype), dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", list(CASES))
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
    assert engine.stats.rows_are_independent
    engine.close()


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["gemma3n", "gemma4"])
def test_rows_alone_have_the_tokens_of_rows_together(case: str, engine_of: Make) -> None:
    engine = engine_of(case, Dtype.bfloat16)
    asked = [
        Request(number, ids, ignore_eos=True, max_new_tokens=30)
        for number, ids in enumerate(families.PROMPTS)
    ]
    together = complete(engine, asked)
    assert {one.id: complete(engine, [one])[one.id] for one in asked} == together
    engine.close()


@pytest.mark.thorough
@pytest.mark.parametrize("kv_cache", [KvCache.int8, KvCache.int8_rotated])
def test_narrow_heads_go_into_bytes(kv_cache: KvCache, engine_of: Make) -> None:
    check_logits(engine_of("gemma4", generation=GenerationConfig(kv_cache=kv_cache)), Dtype.bfloat16)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["gemma3n, wide", "gemma4, wide"])
def test_quantized_layers_go_in_the_same_call(case: str, engine_of: Make) -> None:
    """Also the small routers of streams are quantized then: C gets what they give for an identity matrix."""
    check_logits(engine_of(case, Dtype.bfloat16, quantization=Nf4Config()), Dtype.bfloat16)


def _shapes(fused: FusedForward) -> list[HeadShape]:
    return [HeadShape.from_address(layer.shape) for layer in fused.weights.layers]


def _without_norm_of_values(fused: FusedForward) -> None:
    for shape in _shapes(fused):
        shape.norm_v.weight = None


def _other_layers_keys(fused: FusedForward) -> None:
    layers = fused.weights.layers
    layers[2].kv, layers[3].kv = layers[1].kv, layers[0].kv


def _unscaled_layers(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.output_scale = 1


def _inputs_of_one_layer(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        LayerInput.from_address(layer.input).first = 0


def _row_of_first_token(fused: FusedForward) -> None:
    ModelInputs.from_address(fused.weights.model.inputs).rows = 1


def _without_cutoff(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.has_cutoff = 0


def _other_cutoff(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        layer.cutoff /= 2


def _other_active_stream(fused: FusedForward) -> None:
    ModelStreams.from_address(fused.weights.model.streams).active = 1


def _exchanged_streams(fused: FusedForward) -> None:
    streams = ModelStreams.from_address(fused.weights.model.streams)
    streams.out_of[0], streams.out_of[1] = streams.out_of[1], streams.out_of[0]


def _unscaled_stream(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        StreamLayer.from_address(layer.streams).scale = None


def _other_router(fused: FusedForward) -> None:
    for layer in fused.weights.layers:
        StreamLayer.from_address(layer.streams).router_scale *= 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("gemma4", _without_norm_of_values),
        ("gemma3n", _other_layers_keys),
        ("gemma4", _unscaled_layers),
        ("gemma4", _inputs_of_one_layer),
        ("gemma4", _row_of_first_token),
        ("gemma3n", _without_cutoff),
        ("gemma3n", _other_cutoff),
        ("gemma3n", _other_active_stream),
        ("gemma3n", _exchanged_streams),
        ("gemma3n", _unscaled_stream),
        ("gemma3n", _other_router),
    ],
)
def test_what_is_wrong_shows_in_the_logits(
    case: str, change: Callable[[FusedForward], None], engine_of: Make
) -> None:
    check_that_it_shows(engine_of(case), change)


@pytest.mark.parametrize("seen", [True, False])
def test_tokens_of_images_have_the_models_own_embeddings(
    seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 4 embeds them as padding; the single call would take their rows of the table."""
    monkeypatch.setitem(families.OVERRIDES, "gemma4", {"image_token_id": families.PROMPTS[0][-1]})
    families.build("gemma4", tmp_path)
    engine = open_engine(
        make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32))
    )
    _, _, fused = with_fast_kernels(engine)
    assert fused is not None
    if not seen:
        fused.weights.other_tokens = type(fused.weights.other_tokens)(frozenset(), None)
    expected = families.by_generate(AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").eval())
    asked = Request(0, families.PROMPTS[0], ignore_eos=True, max_new_tokens=families.NEW_TOKENS[0])
    assert (complete(engine, [asked])[0] == expected[0]) == seen
    engine.close()


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["gemma3n", "gemma4"])
def test_tokens_of_images_keep_the_models_own_pass(family: str, engine_of: Make) -> None:
    """A model that reads images embeds their tokens otherwise."""
    _, _, fused = with_fast_kernels(engine_of(family))
    assert fused is not None
    assert fused.supports_tokens([5, 6], [0, 1])
    other = type(fused.weights.other_tokens)(frozenset((6,)), 9)
    fused.weights.other_tokens = other
    assert not fused.supports_tokens([5, 6], [0, 1])
    assert not fused.supports_tokens([5, 9], [0, 1])
    assert fused.supports_tokens([5, 8], [0, 1])
