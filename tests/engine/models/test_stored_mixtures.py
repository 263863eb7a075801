"""Mixtures whose experts are stored as codes: computed from these, equal to the model of their plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loading import Make, configure, load, logits, off
from resolving import predict
from stored_mixtures import ROUNDS_ROWS, STORED, exchanged, save, save_gpt_oss
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.devices.heap import Heap
from runner_engine.kernels import native
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped import GroupedLinear

FAMILIES = {  # of other names than most, or with more than experts
    "mixtral": "block_sparse_moe.experts.3.w1", "deepseek_v3": "shared_experts.up_proj", "glm4_moe": "shared_experts.up_proj",
    "nemotron_h": "mixer.experts.3.up_proj", "olmoe": "mlp.experts.3.up_proj",
}  # fmt: skip
EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Any:
    known: dict[Any, tuple[Path, Path]] = {}

    def folders(family: str, name: str, **keys: Any) -> tuple[Path, Path]:
        key = repr((family, name, keys))
        if key not in known:
            folder = tmp_path_factory.mktemp(f"{family}_{name}")
            known[key] = save_gpt_oss(folder, **keys) if name == "mxfp4" else save(folder, family, name, **keys)
            for one in known[key]:
                AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(one)
        return known[key]

    return folders


def plain_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def grouped_layers(model: Any) -> dict[str, GroupedLinear]:
    return {path: one for path, one in model.named_modules() if isinstance(one, GroupedLinear)}


CASES = [("qwen3_moe", name) for name in STORED] + [(family, "gptq") for family in FAMILIES]
CASES += [("mixtral", "fp8"), ("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4")]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_stored_mixture_computes_what_its_plain_weights_do(
    make_config: Make, saved: Any, tmp_path: Path, family: str, name: str
) -> None:
    folder, plain = saved(family, name)
    loaded = load(make_config, folder, dtype=Dtype.float32)
    expected, found = plain_logits(plain), logits(loaded)
    allowed = 0.1 if name in ROUNDS_ROWS else 1e-5
    assert off(found, expected) < allowed
    assert loaded.metrics["quantized_share"] > (
        0.9 if name != "mxfp4" else 0.7
    )  # attention of this gpt-oss stays plain
    assert not any("no use for" in note for note in loaded.notes)
    if name not in ROUNDS_ROWS:  # and by the kernels
        layers = QuantizedLayers(loaded.model, Heap())
        assert native.kernels() is None or len(layers.exchanged) == len(grouped_layers(loaded.model))
        assert off(logits(loaded), expected) < 1e-5


@pytest.mark.parametrize(("family", "name"), [("mixtral", "gptq"), ("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4")])
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_predicted_size_is_that_of_the_loaded_weights(
    make_config: Make, saved: Any, family: str, name: str, dtype: Dtype
) -> None:
    folder, _ = saved(family, name)
    loaded = load(make_config, folder, dtype=dtype)
    predicted = predict(configure(make_config, folder, dtype=dtype), 2, 8, 8)
    assert predicted is not None
    unnamed = sum(one.nbytes for key, one in loaded.model.named_buffers() if "inv_freq" in key)  # that no file has
    # a router's biases may be of another number format than the rest
    assert sum(predicted.weights.values()) == pytest.approx(sum(loaded.bytes_by_dtype.values()) - unnamed, rel=1e-3)
    codes = sum(one.weight.nbytes for one in grouped_layers(loaded.model).values())
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= codes, "the codes stay in the file"


@pytest.mark.parametrize(("family", "name"), [("qwen3_moe", "pack_quantized"), ("gpt_oss", "mxfp4")])
def test_exchanged_experts_are_seen(make_config: Make, saved: Any, tmp_path: Path, family: str, name: str) -> None:
    folder, plain = saved(family, name)
    other = exchanged(folder, tmp_path / "other", "model.layers.1.")
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)
    assert off(logits(load(make_config, other, dtype=Dtype.float32)), plain_logits(plain)) > 1e-3
