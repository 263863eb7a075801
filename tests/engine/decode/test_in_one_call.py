"""Every family that goes in a single call does so in bfloat16, on each processor on which these
tests run.

Which do not, and why, is in the table of bench/engine/README.md; `make test-avx2` runs this as with
AVX2 only.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from forward_pass import with_fast_kernels
from opening import make_spec, open_engine

from runner_base.dtypes import Dtype
from runner_engine.kernels import native
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
DENSE = [
    "arcee", "biogpt", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "falcon", "fuyu", "gemma", "gemma2",
    "gemma3", "gemma3_text", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified_text", "glm", "glm4",
    "got_ocr2", "gpt-sw3", "gpt2", "gpt_bigcode",
    "gpt_neox", "granite", "helium", "hunyuan_v1_dense", "internlm3", "iquestcoder", "jais2",
    "llama", "ministral", "ministral3", "mistral", "moss_transcribe_diarize", "nemotron",
    "olmo", "olmo2", "olmo3", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss",
    "smollm3", "stablelm", "starcoder2", "vaultgemma",
]  # fmt: skip
MIXTURES = [
    "aria_text", "exaone_moe", "flex_olmo", "glm4_moe", "gpt_oss", "granitemoe",
    "granitemoeshared", "hy_v3", "jetmoe", "llama4_text", "mellum", "minimax_m2", "mixtral", "olmoe", "qwen2_moe",
    "qwen3_moe", "solar_open",
]  # fmt: skip
# hybrids are in tests/engine/recurrent
LATENTS = ["deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", [*DENSE, *MIXTURES, *LATENTS])
def test_its_passes_are_a_single_call(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    families.build(family, tmp_path / "model")
    model = LocalModelConfig(name=str(tmp_path / "model"), device="cpu", dtype=Dtype.bfloat16)
    with caplog.at_level(logging.DEBUG, logger="runner_engine.decode.compat_probe"):
        _, _, fused = with_fast_kernels(open_engine(make_spec(model=model)))
    assert fused is not None, caplog.messages
    assert not fused.has_separate_mlps


@pytest.mark.parametrize(("family", "in_float32"), [("olmo2", 1), ("llama", 0)])
def test_rope_is_rounded_as_torch_rounds_it(family: str, in_float32: int, tmp_path: Path) -> None:
    """OLMo's tables keep float32 in a bfloat16 model, so torch rounds once; Llama's do not."""
    families.build(family, tmp_path / "model")
    model = LocalModelConfig(name=str(tmp_path / "model"), device="cpu", dtype=Dtype.bfloat16)
    _, _, fused = with_fast_kernels(open_engine(make_spec(model=model)))
    assert fused is not None
    assert fused.weights.model.rotates_in_float32 == in_float32
