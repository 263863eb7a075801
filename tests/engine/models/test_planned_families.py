"""What a plan says of a quantized model's bytes and share is what is loaded, for hybrids and for
every mixture."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import gguf_families
import pytest
from transformers import AutoTokenizer

from runner_base import MIB, Dtype
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, predict_footprint, resolve_model
from runner_engine.checkpoints import library_rules, linear_layers
from runner_engine.checkpoints.linear_layers import plan_model_quantization
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.devices.mapped_files import measure_resident_file_mib
from runner_engine.embedded import MODEL_DIR
from runner_engine.models.base_loading import load_base_model
from tools import families

HYBRIDS = (
    "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "lfm2", "lfm2_moe", "granitemoehybrid", "nemotron_h", "falcon_h1",
    "bamba", "jamba", "mamba2", "falcon_mamba", "recurrent_gemma", "zamba2", "olmo_hybrid", "kimi_linear",
)  # fmt: skip
MIXTURES = (
    "afmoe", "aria_text", "axk1", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "doge", "ernie4_5_moe",
    "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "gpt_oss", "granitemoe", "granitemoeshared",
    "hunyuan_v1_moe", "hy_v3", "jetmoe", "llama4_text", "longcat_flash", "mellum", "mimo_v2_flash", "minimax_m2",
    "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe", "solar_open",
)  # fmt: skip
MISSED = ("jetmoe", "longcat_flash")  # their experts stay as they are
RULED: dict[str, dict[str, Any]] = {  # families with rules of their own, and sizes that 4-bit kernels take
    "deepseek_v4": {}, "gemma3n_text": {}, "inkling_text": {}, "inkling2_text": {}, "qwen4_exp": {},
    "hy_v4": {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "intermediate_size": 128, "moe_intermediate_size": 64},
}  # fmt: skip
RULED_CASES = [
    (family, name)
    for family in RULED
    for name in ("none", "int8", "nf4")
    if (family, name) != ("gemma3n_text", "nf4")  # more than 2 % of a tiny one are layers of 4 x 4
]
KEPT_IN_FLOAT32 = (
    0.01  # of the bytes: some numbers of state spaces and routers stay so, whatever model.dtype is
)


def resolved_of(family: str, name: str, folder: Path, dtype: Dtype = Dtype.auto) -> ResolvedModel:
    """Build a tiny model, and return it with a quantization."""
    families.build(family, folder)
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)
    settings: dict[str, Any] = {} if name == "none" else {"allow_partial": True}
    return resolve_model(ModelSpec(model, CHOICES[name](**settings)))


def planned_mib(resolved: ResolvedModel) -> float:
    predicted = predict_footprint(resolved, (1, 16, 8))
    assert predicted is not None
    return predicted.weight_mib


def compare(family: str, name: str, folder: Path, dtype: Dtype = Dtype.auto) -> float:
    """Compare a plan with a load; return the share of the parameters in blocks that is
    quantized."""
    resolved = resolved_of(family, name, folder, dtype)
    walked = plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").share
    base = load_base_model(resolved)
    assert planned_mib(resolved) == pytest.approx(
        sum(base.bytes_by_dtype.values()) / MIB, rel=KEPT_IN_FLOAT32
    )
    share = base.metrics.get("quantized_share", 0.0)
    assert share == pytest.approx(walked.of_blocks, abs=2e-3)
    return share


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("qwen3_moe", {"num_experts": 64, "moe_intermediate_size": 256}),
        ("qwen3", {"intermediate_size": 8192}),
    ],
)
def test_a_file_whose_experts_are_joined_is_not_in_memory_twice(
    tmp_path: Path, family: str, sizes: dict[str, int]
) -> None:
    """A dense model's weights are the file's pages; the joined experts of a mixture are copies."""
    gguf_families.tiny(family, **sizes).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(tmp_path)
    resolved = resolve_model(ModelSpec(LocalModelConfig(name=str(tmp_path), device="cpu"), CHOICES["none"]()))
    base = load_base_model(resolved)
    for weight in base.model.parameters():
        weight.sum()  # reads all pages of what is still in the file
    files = resolved.files.weight_files[1]
    resident = measure_resident_file_mib(files) / (sum(file.stat().st_size for file in files) / MIB)
    assert resident < 0.5 if family == "qwen3_moe" else resident > 0.9, resident


@pytest.mark.sampled(4)
@pytest.mark.parametrize("family", HYBRIDS)
def test_of_hybrids(tmp_path: Path, family: str) -> None:
    # whose blocks share some
    assert compare(family, "int8", tmp_path) > (0.4 if family == "zamba2" else 0.85)


@pytest.mark.thorough
@pytest.mark.parametrize("family", MIXTURES)
def test_of_mixtures(tmp_path: Path, family: str) -> None:
    assert (compare(family, "int8", tmp_path) > 0.95) == (family not in MISSED)


@pytest.mark.thorough
@pytest.mark.parametrize(("family", "name"), RULED_CASES)
def test_of_families_with_rules(
    tmp_path: Path, family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | RULED[family])
    monkeypatch.setattr(families, "NOT_TINY", set())
    share = compare(family, name, tmp_path, Dtype.bfloat16)
    assert share == 0 if name == "none" else share > 0.85


@pytest.mark.parametrize("family", ["hy_v4", "qwen4_exp"])
def test_without_their_rules_a_plan_would_be_wrong(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "NOT_TINY", set())
    resolved = resolved_of(family, "int8", tmp_path, Dtype.bfloat16)
    planned = planned_mib(resolved)
    monkeypatch.setattr(library_rules, "IN_FLOAT32", {})
    monkeypatch.setattr(linear_layers, "OUTSIDE_BLOCKS", re.compile("none of them"))
    assert planned_mib(resolved) != pytest.approx(planned, rel=0.1)
