"""Mixtures whose experts are stored as codes: computed from these, equal to the model of their
plain weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_checkpoints import changed
from loading import configure, load, logits, off
from opening import predict
from safetensors.torch import load_file
from stored_mixtures import FUSED, ROUNDS_ROWS, STORED, exchanged, save, save_fused, save_gpt_oss
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.experts import SeparateExperts
from runner_engine.kernels import native
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped_linear import GroupedLinear

FAMILIES = {  # of other names than most, or with more than experts
    "mixtral": "block_sparse_moe.experts.3.w1", "deepseek_v3": "shared_experts.up_proj", "glm4_moe": "shared_experts.up_proj",
    "nemotron_h": "mixer.experts.3.up_proj", "olmoe": "mlp.experts.3.up_proj",
}  # fmt: skip

ALLOWED = {"modelopt_nvfp4_rows": 0.3}  # rows of 4 bits


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Any:
    known: dict[Any, tuple[Path, Path]] = {}

    def folders(family: str, name: str, **keys: Any) -> tuple[Path, Path]:
        key = repr((family, name, keys))
        if key not in known:
            folder = tmp_path_factory.mktemp(f"{family}_{name}")
            if family == "fused":
                known[key] = save_fused(folder, name, **keys)
            else:
                known[key] = (
                    save_gpt_oss(folder, **keys) if name == "mxfp4" else save(folder, family, name, **keys)
                )
            for one in known[key]:
                AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(one)
        return known[key]

    return folders


def plain_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def grouped_layers(model: Any) -> dict[str, GroupedLinear]:
    return {path: one for path, one in model.named_modules() if isinstance(one, GroupedLinear)}


CASES = [("qwen3_moe", name) for name in STORED] + [(family, "gptq") for family in FAMILIES]
CASES += [("fused", name) for name in FUSED]  # experts alone are codes
CASES += [("mixtral", "fp8"), ("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4")]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_stored_mixture_computes_what_its_plain_weights_do(
    saved: Any, tmp_path: Path, family: str, name: str
) -> None:
    folder, plain = saved(family, name)
    loaded = load(folder, dtype=Dtype.float32)
    expected, found = plain_logits(plain), logits(loaded)
    allowed = ALLOWED.get(name, 0.1 if name in ROUNDS_ROWS else 1e-5)
    assert off(found, expected) < allowed
    # attention of these stays plain
    assert loaded.metrics["quantized_share"] > (0.9 if name != "mxfp4" and family != "fused" else 0.6)
    assert "unused_tensors" not in {note.code for note in loaded.notes}
    if name not in ROUNDS_ROWS:  # and by the kernels
        layers = QuantizedLayers(loaded.model, HeapTrimmer())
        assert native.load_kernels() is None or len(layers.replaced_layers) == len(
            grouped_layers(loaded.model)
        )
        assert off(logits(loaded), expected) < 1e-5


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("family", "name"),
    [("mixtral", "gptq"), ("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4"), *(("fused", name) for name in FUSED)],
)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_predicted_size_is_that_of_the_loaded_weights(
    saved: Any, family: str, name: str, dtype: Dtype
) -> None:
    folder, _ = saved(family, name)
    loaded = load(folder, dtype=dtype)
    predicted = predict(configure(folder, dtype=dtype), 2, 8, 8)
    assert predicted is not None
    # that no file has
    unnamed = sum(one.nbytes for key, one in loaded.model.named_buffers() if "inv_freq" in key)
    # a router's biases may be of another number format than the rest
    assert sum(predicted.weights.values()) == pytest.approx(
        sum(loaded.bytes_by_dtype.values()) - unnamed, rel=1e-3
    )
    codes = sum(one.weight.nbytes for one in grouped_layers(loaded.model).values())
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= codes, "the codes stay in the file"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen3_moe", "pack_quantized"), ("gpt_oss", "mxfp4"), *(("fused", name) for name in FUSED)],
)
def test_exchanged_experts_are_seen(saved: Any, tmp_path: Path, family: str, name: str) -> None:
    folder, plain = saved(family, name)
    other = exchanged(folder, tmp_path / "other", "model.layers.1.")
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)
    assert off(logits(load(other, dtype=Dtype.float32)), plain_logits(plain)) > 1e-3


@pytest.mark.skipif(native.load_kernels() is None, reason="the kernels are not built here")
def test_mxfp4_of_gpt_oss_takes_no_more_memory_than_its_file(saved: Any) -> None:
    folder, _ = saved("gpt_oss", "mxfp4")
    loaded = load(folder)
    codes = [
        one
        for name, one in load_file(folder / "model.safetensors").items()
        if name.endswith(("_blocks", "_scales"))
    ]
    weights = QuantizedLayers(loaded.model, HeapTrimmer()).matrices.values()
    assert sum(one.tensors[0].nbytes for one in weights) == sum(one.nbytes for one in codes)


GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
SCALES, BLOCKS = f"{GATE_UP}_scales", f"{GATE_UP}_blocks"
DAMAGES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("mxfp4", lambda of: {name: one for name, one in of.items() if name != SCALES}, "lacks its gate_up_proj_scales"),
    ("mxfp4", lambda of: of | {SCALES: of[SCALES][:, :, :1].contiguous()}, r"gate_up_proj_scales: \[8, 128, 1\], .*\[8, 128, 2\]"),
    ("mxfp4", lambda of: of | {BLOCKS: of[BLOCKS].int()}, "gate_up_proj_blocks: I32, but U8 "),
    ("mxfp4", lambda of: of | {SCALES: of[SCALES] | 255}, "gate_up_proj_scales: a scale is not finite"),
    ("mxfp4", lambda of: of | {"model.layers.7.mlp.experts.down_proj_blocks": of[BLOCKS].clone()}, "GptOssForCausalLM has no experts with this name"),
    ("gptq", lambda of: of | {name.replace("experts.7.", "experts.8."): one.clone() for name, one in of.items()}, r"experts\.8\..*Qwen3MoeForCausalLM has no linear layer with this name"),
    ("gptq", lambda of: {name: one for name, one in of.items() if name != "model.layers.0.mlp.experts.3.up_proj.scales"}, r"experts\.3\.up_proj\.qweight: the checkpoint lacks scales of this layer"),
    ("fp8", lambda of: of | {GATE_UP: torch.ones(8, 128, 64).to(torch.float8_e4m3fn)}, r"experts\.gate_up_proj: the checkpoint lacks its gate_up_proj_scale_inv"),
]  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("name", "change", "message"), DAMAGES)
def test_what_does_not_fit_is_refused_by_name(
    saved: Any, tmp_path: Path, name: str, change: Callable[[Any], Any], message: str
) -> None:
    folder, _ = saved("gpt_oss" if name == "mxfp4" else "qwen3_moe", name)
    with pytest.raises(ConfigError, match=message):
        load(changed(folder, tmp_path / "changed", change))


@pytest.mark.thorough
def test_some_layers_may_stay_joined(saved: Any) -> None:
    folder, plain = saved("mixtral", "gptq", keeps=r"layers\.0\.")
    loaded = load(folder, dtype=Dtype.float32)
    assert off(logits(loaded), plain_logits(plain)) < 1e-5
    assert loaded.model.model.layers[0].mlp.experts.gate_up_proj.dim() == 3
    assert isinstance(loaded.model.model.layers[1].mlp.experts, SeparateExperts)
