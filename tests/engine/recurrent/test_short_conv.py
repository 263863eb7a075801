"""LFM2's short convolution beside the family's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixers_alone import TOLERANCE, check, spread_weights
from transformers import DynamicCache, Lfm2Config
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from runner_engine.kernels import native
from runner_engine.recurrent import Segments, create_mixer

pytestmark = pytest.mark.slow


def _layer(bias: bool, width: int = 3) -> tuple[Any, Any]:
    config: Any = Lfm2Config(
        hidden_size=32, conv_bias=bias, conv_L_cache=width, num_hidden_layers=1, layer_types=["conv"],
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    layer = Lfm2ShortConv(config, 0).eval()
    spread_weights(layer)
    return layer, config


@pytest.mark.parametrize("way", ["kernels", "torch"])
@pytest.mark.parametrize(("bias", "width"), [(False, 3), (True, 4)])
def test_it_gives_the_family_s_numbers(
    bias: bool, width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "torch":
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    layer, config = _layer(bias, width)
    mixer: Any = create_mixer(layer)
    assert (mixer.convolution is not None) is (way == "kernels")
    named = {"past_key_values": DynamicCache}
    assert check(layer, config, mixer, named) < TOLERANCE
    # a state not set to zeros
    assert check(layer, config, mixer, named, lambda states: states[0].fill_(0.1)) > 1e-3


def test_other_slots_stay_as_they_are() -> None:
    layer, _ = _layer(False)
    mixer = create_mixer(layer)
    assert mixer is not None
    states = [torch.ones(5, *mixer.states[0].shape)]
    with torch.inference_mode():
        mixer.forward(torch.randn(3, 32), states, Segments.from_token_counts([3, 1], [2, 1]))
    assert all(bool((states[0][slot] == 1).all()) for slot in (0, 2, 4))
    assert not bool((states[0][3] == 1).any())
