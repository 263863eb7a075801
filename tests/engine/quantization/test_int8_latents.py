"""int8 beside latent attention (MLA), whose latents transformers hands on in four dimensions."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from loading import load, logits, off
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from runner_base.dtypes import Dtype
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from tools import families

MOST_LOST = 0.15  # of all logits, by 8 bits, with which some tokens go to other experts
INT8 = CHOICES["int8"]()
OF_A_MIX = QuantizationConfig(overrides={"self_attn": "int8"})  # layers that are made one by one


@pytest.mark.sampled(1)
@pytest.mark.parametrize("quantization", [INT8, OF_A_MIX], ids=["whole", "mix"])
@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe_lite"])
def test_latents_are_multiplied_in_8_bits(
    family: str, quantization: QuantizationConfig, tmp_path: Path
) -> None:
    """The controls: codes of one layer that are lost are seen, and the library's own class fails."""
    library: Any = import_module("bitsandbytes")
    families.build(family, tmp_path)
    plain = logits(load(tmp_path, dtype=Dtype.float32))
    loaded = load(tmp_path, quantization, dtype=Dtype.float32)
    assert 0 < off(logits(loaded), plain) < MOST_LOST
    layer = loaded.model.get_decoder().layers[0].self_attn.kv_b_proj
    layer.state.CB.zero_()
    assert off(logits(loaded), plain) > MOST_LOST
    layer.__class__ = library.nn.Linear8bitLt
    with pytest.raises(RuntimeError, match="size of tensor"):
        logits(loaded)


@pytest.mark.thorough
def test_latents_of_a_model_that_is_stored_in_8_bits(tmp_path: Path) -> None:
    plain, stored = tmp_path / "plain", tmp_path / "stored"
    families.build("deepseek_v3", plain)
    by_library = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map="cpu"
    )
    by_library.save_pretrained(stored)
    for file in plain.glob("tokenizer*"):
        shutil.copy(file, stored)
    with pytest.raises(RuntimeError, match="size of tensor"):
        logits(by_library)
    expected = logits(load(plain, dtype=Dtype.float32))
    assert 0 < off(logits(load(stored, dtype=Dtype.float32)), expected) < MOST_LOST
