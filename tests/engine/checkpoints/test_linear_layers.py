"""Which tensors are linear layers and heads, and what a mix leaves plain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from opening import make_spec

from runner_base.dtypes import Dtype
from runner_engine.checkpoints.linear_layers import find_linear_layers, measure_unquantized_layers
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.model import LocalConfig


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_layers_have_the_paths_of_their_modules_and_a_tied_head_is_none(
    saved_family: Callable[..., Path], tied: bool
) -> None:
    resolved = resolve_model(make_spec(model=LocalConfig(name=str(saved_family(tied=tied)), device="cpu")))
    layers, heads = find_linear_layers(resolved.files.tensors, resolved.files.text_settings)
    assert len(layers) == 14
    assert "model.layers.1.self_attn.q_proj" in layers
    assert [*heads] == ([] if tied else ["lm_head"])


@pytest.mark.parametrize(
    ("quantization", "numbers", "share"),
    [
        # q and o; k and v; gate and up; down
        (Nf4Config(skip=["layers.0.mlp.down_proj"]), 128 * 192, 1 / 4),
        (Nf4Config(skip=["q_proj", "o_proj"]), 4 * 128 * 128, 1 / 4),
        (
            QuantizationConfig(overrides={"mlp": "nf4", "lm_head": "int8"}),
            4 * 128 * 128 + 4 * 128 * 64,
            2 / 4,
        ),
        (QuantizationConfig(overrides={"layers": "nf4"}), 0, 0),
    ],
)
def test_what_a_mix_leaves_plain(
    saved_family: Callable[..., Path], quantization: QuantizationConfig, numbers: int, share: float
) -> None:
    model = LocalConfig(name=str(saved_family()), device="cpu", dtype=Dtype.bfloat16)
    job = resolve_model(make_spec(model=model, quantization=quantization))
    plain = measure_unquantized_layers(job.files, job.quantization_mix)
    assert (plain.nbytes, plain.share_of_shapes) == (2 * numbers, share)
    assert plain.has_quantized_head == ("lm_head" in quantization.overrides)
