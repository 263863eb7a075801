"""The gated delta rule beside the families' own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixers_alone import TOLERANCE, check, fresh, spread_weights
from transformers import (
    BailingHybridConfig,
    DynamicCache,
    KimiLinearConfig,
    OlmoHybridConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)
from transformers.models.bailing_hybrid.modeling_bailing_hybrid import BailingHybridDeltaAttention
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from runner_engine.kernels import native
from runner_engine.recurrent import Segments, create_mixer

pytestmark = pytest.mark.slow

PLAIN: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 80,
}  # fmt: skip
KIMI: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"], "linear_num_heads": 2, "linear_head_dim": 16,
}  # fmt: skip
LAYERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen3_5": (Qwen3_5TextConfig, Qwen3_5GatedDeltaNet, PLAIN),
    "qwen3_next": (Qwen3NextConfig, Qwen3NextGatedDeltaNet, PLAIN),
    "olmo": (OlmoHybridConfig, OlmoHybridGatedDeltaNet, PLAIN | {"linear_allow_neg_eigval": False}),
    "olmo, negative": (OlmoHybridConfig, OlmoHybridGatedDeltaNet, PLAIN | {"linear_allow_neg_eigval": True}),
    "kimi": (KimiLinearConfig, KimiLinearDeltaAttention, KIMI),
    "bailing": (BailingHybridConfig, BailingHybridDeltaAttention, KIMI),
}


def _layer(what: str) -> tuple[Any, Any]:
    config_class, layer_class, keys = LAYERS[what]
    config = config_class(**keys)
    layer = layer_class(config, 0).eval()
    spread_weights(layer)
    return layer, config


@pytest.mark.sampled(8)
@pytest.mark.parametrize("way", ["kernels", "torch"])
@pytest.mark.parametrize("what", LAYERS)
def test_it_gives_the_family_s_numbers(what: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "torch":
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    layer, config = _layer(what)
    mixer: Any = create_mixer(layer)
    assert (mixer.rule is not None) is (way == "kernels")
    named = {"cache_params": DynamicCache}
    assert check(layer, config, mixer, named) < TOLERANCE
    # a state not set to zeros
    assert check(layer, config, mixer, named, lambda states: states[1].fill_(0.1)) > 1e-3
    real = mixer.project
    mixer.project = lambda module, hidden: (made := real(module, hidden))._replace(decay=1.1 * made.decay)
    assert check(layer, config, mixer, named) > 1e-3  # a wrong decay


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_how_a_text_is_cut(dtype: torch.dtype) -> None:
    """Of what lies between the projections, whose products are not this folder's."""
    layer, _ = _layer("qwen3_5")
    mixer: Any = create_mixer(layer.to(dtype))
    generator = torch.Generator().manual_seed(3)
    tokens, channels = 50, layer.conv1d.weight.shape[0]
    mixed, gate = (torch.randn(tokens, size, generator=generator).to(dtype) for size in (channels, 4 * 80))
    decay, beta = (-torch.rand(tokens, 4, generator=generator), torch.rand(tokens, 4, generator=generator))

    def read(counts: tuple[int, ...]) -> torch.Tensor:
        states, results, first = fresh(mixer, 3), [], 0
        for count in counts:
            at, segments = slice(first, first + count), Segments.from_token_counts([1], [count])
            convolved = mixer.convolution(mixed[at], states[0], segments)
            results.append(mixer.rule(convolved, decay[at], beta[at], gate[at], states[1], segments))
            first += count
        return torch.cat([*results, states[1].flatten(1).to(dtype)[:, : results[0].shape[1]]])

    whole = read((50,))
    assert bool(whole.isfinite().all())
    assert torch.equal(whole, read((1, 6, 1, 25, 17)))
    beta[0] += 0.01
    assert not torch.equal(whole, read((50,)))


def test_a_state_is_kept_in_float32() -> None:
    layer, _ = _layer("qwen3_5")
    mixer = create_mixer(layer.bfloat16())
    assert mixer is not None
    assert [shape.dtype for shape in mixer.states] == [torch.bfloat16, torch.float32]
