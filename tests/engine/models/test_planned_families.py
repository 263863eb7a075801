"""What a plan says of a quantized model's bytes and share is what is loaded, for hybrids and for every mixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_base import MIB
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, predict, resolve
from runner_engine.checkpoints.linear_layers import walk_files
from runner_engine.models.load import load_base
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
KEPT_IN_FLOAT32 = 0.01  # of the bytes: some numbers of state spaces and routers stay so, whatever model.dtype is


def compare(family: str, name: str, folder: Path) -> float:
    """Compare a plan with a load; return the share of the parameters in blocks that is quantized."""
    families.build(family, folder)
    resolved = resolve(ModelSpec(LocalModelConfig(name=str(folder), device="cpu"), CHOICES[name](allow_partial=True)))
    predicted, walked = predict(resolved, (1, 16, 8)), walk_files(resolved.files, resolved.mix, "cpu").share
    base = load_base(resolved)
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(sum(base.bytes_by_dtype.values()) / MIB, rel=KEPT_IN_FLOAT32)
    assert base.metrics["quantized_share"] == pytest.approx(walked.of_blocks, abs=2e-3)
    return base.metrics["quantized_share"]


@pytest.mark.parametrize("family", HYBRIDS)
def test_of_hybrids(tmp_path: Path, family: str) -> None:
    assert compare(family, "int8", tmp_path) > (0.4 if family == "zamba2" else 0.85)  # whose blocks share some


@pytest.mark.thorough
@pytest.mark.parametrize("family", MIXTURES)
def test_of_mixtures(tmp_path: Path, family: str) -> None:
    assert (compare(family, "int8", tmp_path) > 0.95) == (family not in MISSED)
